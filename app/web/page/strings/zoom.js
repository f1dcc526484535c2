/** The texts of page/xray/zoom/. Their keys begin with "zoom.". */

/** @type {Record<string, { en: string, zh: string }>} */
export const zoom = {
  "zoom.title": { en: "Inside a block", zh: "一层的内部" },
  "zoom.block_title": { en: "Block {block} of 0–{last}", zh: "第 {block} 层（0–{last}）" },
  "zoom.head_title": { en: "Block {block}, head {head}", zh: "第 {block} 层，注意力头 {head}" },
  "zoom.counted": {
    en: "Blocks, heads, positions, features and neurons are counted from 0, as in the API and in the hooks' names.",
    zh: "层、注意力头、位置、特征和神经元都从 0 开始编号，与 API 和钩子名称一致。",
  },
  "zoom.previous_block": { en: "The block before", zh: "上一层" },
  "zoom.next_block": { en: "The next block", zh: "下一层" },
  "zoom.ablated": { en: "With the ablations", zh: "显示消融后的结果" },
  "zoom.position": { en: "Position", zh: "位置" },
  "zoom.again": { en: "Try again", zh: "重试" },
  "zoom.loading": { en: "Being computed …", zh: "正在计算……" },

  // ---- the diagram
  "zoom.parts": { en: "Parts of the block", zh: "这一层的各个部分" },
  "zoom.part.ln1": { en: "LayerNorm 1", zh: "层归一化 1" },
  "zoom.part.ln2": { en: "LayerNorm 2", zh: "层归一化 2" },
  "zoom.part.ln_final": { en: "Final norm", zh: "最终归一化" },
  "zoom.part.add1": { en: "The attention is added to the stream", zh: "注意力的输出加入残差流" },
  "zoom.part.add2": { en: "The MLP is added to the stream", zh: "MLP 的输出加入残差流" },
  "zoom.diagram": {
    en: "Numbers are norms at position {position}; widths compare them.",
    zh: "数字是位置 {position} 处各向量的范数，线宽按范数比较。",
  },

  // ---- residual
  "zoom.residual": { en: "Residual connection", zh: "残差连接" },
  "zoom.residual.text": {
    en: "What the branch computed is added to the stream, feature by feature: the vector stays as long as it was, nothing is concatenated. The stream itself goes by untouched, so that a later block still finds what an earlier one wrote.",
    zh: "分支算出的结果逐个特征地加到残差流上：向量的长度不变，并不是拼接。残差流本身原样通过，所以后面的层仍能读到前面的层写入的内容。",
  },
  "zoom.no_residual": {
    en: "Ablated: here the stream is not added. What goes on is the branch alone.",
    zh: "已消融：这里不再加上残差流，继续向后的只有分支的输出。",
  },
  "zoom.stream_before": { en: "Stream before", zh: "加之前的残差流" },
  "zoom.stream_after": { en: "Stream after", zh: "加之后的残差流" },
  "zoom.all_heads": { en: "Attention, all heads", zh: "注意力（所有头）" },
  "zoom.this_head": { en: "This head's share", zh: "这个头的份额" },
  "zoom.mlp_out": { en: "MLP", zh: "MLP" },
  "zoom.norm_z": { en: "z of this head", zh: "这个头的 z" },
  "zoom.cosine": {
    en: "Cosine of what is added with the stream: {cosine}. Near 0 it writes something new, below 0 it takes away from what is there.",
    zh: "所加向量与残差流的余弦：{cosine}。接近 0 表示写入新的内容，小于 0 表示削弱已有的内容。",
  },

  // ---- attention
  "zoom.attention": { en: "Attention", zh: "注意力" },
  "zoom.attention.text": {
    en: "Each token's query meets the keys of itself and of the tokens before it, and their values are mixed by the weights that come of it. Scores are first divided by √D and masked, and only then does softmax make weights of them: GPT-2 sees backwards only.",
    zh: "每个词元用自己的查询与自身及之前词元的键作比较，再按得到的权重混合它们的值。分数先除以 √D，再加掩码，最后才由 softmax 变成权重：GPT-2 只能看到前文，看不到后文。",
  },
  "zoom.heads": { en: "Heads", zh: "注意力头" },
  "zoom.head": { en: "Head {head}", zh: "头 {head}" },
  "zoom.previous": { en: "previous", zh: "前一个" },
  "zoom.first": { en: "first", zh: "第一个" },
  "zoom.induction": { en: "induction", zh: "归纳" },
  "zoom.heads.note": {
    en: "Mean weight on the previous token, on the first, and (induction) on the token that followed an earlier occurrence of this one; – where none occurs twice.",
    zh: "分别是给前一个词元、给第一个词元的平均权重，以及（归纳）给“相同词元上次出现之后的那个词元”的平均权重；没有词元重复时显示 –。",
  },
  "zoom.weight": { en: "Weight", zh: "权重" },
  "zoom.masked": { en: "masked: the query cannot see this key", zh: "被掩码：查询看不到这个键" },
  "zoom.map": {
    en: "Attention of head {head}: rows are queries, columns keys. Arrow keys move from pair to pair.",
    zh: "头 {head} 的注意力：行是查询，列是键。用方向键在词元对之间移动。",
  },
  "zoom.picture": {
    en: "Attention of block {block}, head {head}: rows are queries, columns keys",
    zh: "第 {block} 层注意力头 {head}：行是查询，列是键",
  },
  "zoom.query": { en: "Query", zh: "查询" },
  "zoom.key": { en: "Key", zh: "键" },
  "zoom.pair": {
    en: "{query} looks at {key} with a weight of {weight}; the score is {score}.",
    zh: "{query} 对 {key} 的权重为 {weight}，分数为 {score}。",
  },
  "zoom.pair_masked": { en: "{query} cannot see {key}: the pair is masked.", zh: "{query} 看不到 {key}：这一对被掩码。" },
  "zoom.deeper": { en: "Follow the numbers", zh: "逐步查看数值" },

  // ---- the steps of a head
  "zoom.steps": { en: "Steps of the computation", zh: "计算步骤" },
  "zoom.dot": { en: "q · k", zh: "q · k" },
  "zoom.dot.text": {
    en: "The query of the row's token and the key of the column's are multiplied number by number and summed: how well they fit. Both come from the same LayerNormed stream, by different weights.",
    zh: "行词元的查询与列词元的键逐个数相乘再求和，表示二者有多匹配。它们来自同一个经过层归一化的残差流，只是乘的权重矩阵不同。",
  },
  "zoom.scale": { en: "÷ √D", zh: "÷ √D" },
  "zoom.scale.text": {
    en: "The product is divided by the root of the head's size D. A sum of D terms grows like √D, and without this softmax would nearly always give everything to one key.",
    zh: "点积除以头维度 D 的平方根。D 项之和大约按 √D 增长，不除的话 softmax 几乎总会把全部权重给一个键。",
  },
  "zoom.mask": { en: "Mask", zh: "掩码" },
  "zoom.mask.text": {
    en: "Scores of keys that come after the query are replaced by −∞, before softmax and not after it. So nothing of the future gets any weight, and the others still sum to 1.",
    zh: "位于查询之后的键，分数被换成 −∞，而且是在 softmax 之前，不是之后。这样后文得不到任何权重，其余权重之和仍为 1。",
  },
  "zoom.softmax": { en: "Softmax", zh: "Softmax" },
  "zoom.softmax.text": {
    en: "Each score becomes a power of e, divided by the sum over the row: weights between 0 and 1 that sum to 1. Each query has a softmax of its own, over its keys.",
    zh: "每个分数先取 e 的幂，再除以整行之和，得到 0 到 1 之间、总和为 1 的权重。每个查询各自在自己的键上做 softmax。",
  },
  "zoom.values": { en: "Weighted values", zh: "加权的值" },
  "zoom.values.text": {
    en: "Each key's value is multiplied by its weight, and their sum is z, the head's output for the query. What is looked for (q, k) and what is fetched (v) are different vectors.",
    zh: "每个键的值乘以对应权重后相加，得到 z，即这个头对该查询的输出。用来匹配的（q、k）和被取走的（v）是不同的向量。",
  },
  "zoom.project": { en: "Into the stream", zh: "写入残差流" },
  "zoom.project.text": {
    en: "This head's rows of c_proj take z back to the width of the stream, where it is added with the other heads' and one bias. Concatenating the heads and multiplying once, as the code does, is the same sum.",
    zh: "c_proj 中属于这个头的那些行把 z 变回残差流的宽度，再与其他头的结果以及一个偏置相加。代码里先拼接各头再乘一次矩阵，结果与此完全相同。",
  },
  "zoom.bars": {
    en: "{size} numbers each; q and k share a scale, their products have one of their own.",
    zh: "每条有 {size} 个数；q 与 k 用同一刻度，乘积用自己的刻度。",
  },
  "zoom.numbers": { en: "All numbers", zh: "全部数值" },
  "zoom.feature": { en: "no.", zh: "序号" },
  "zoom.kept": {
    en: "Key {key} is not after query {query}: its score stays.",
    zh: "键 {key} 不在查询 {query} 之后，分数保持不变。",
  },
  "zoom.later": {
    en: "Key {key} comes after query {query}: its score becomes −∞.",
    zh: "键 {key} 在查询 {query} 之后，分数变为 −∞。",
  },
  "zoom.taken_out": { en: "An ablation masks key {key} for query {query}.", zh: "消融对查询 {query} 掩去了键 {key}。" },
  "zoom.replaced": {
    en: "An ablation has put something else here than what this step computes.",
    zh: "消融在这里放入了别的数值，与这一步算出的不同。",
  },
  "zoom.row_sum": {
    en: "The weights of row {query} sum to 1. Its largest score, {largest}, is taken from all before the powers: no weight changes by that, and no power overflows.",
    zh: "第 {query} 行的权重之和为 1。取幂之前先减去该行最大的分数 {largest}：权重不变，幂也不会溢出。",
  },
  "zoom.values_sum": {
    en: "The strongest keys and the chosen one; the others have a weight of {rest} together. The sum over all is z.",
    zh: "图中是权重最大的键和所选的键，其余的键合计权重 {rest}。全部相加就是 z。",
  },
  "zoom.share": {
    en: "This head adds a vector of norm {own}; all heads and the bias together add {all}. Norms do not sum: vectors may point away from each other.",
    zh: "这个头加上一个范数为 {own} 的向量，所有头与偏置合计为 {all}。范数不能直接相加，因为向量方向可能相反。",
  },
  "zoom.row": { en: "The whole row of the query", zh: "查询的整行" },
  "zoom.row_of": { en: "All keys of query {query}", zh: "查询 {query} 的所有键" },
  "zoom.product": { en: "q · k", zh: "q · k" },
  "zoom.scaled": { en: "÷ √D", zh: "÷ √D" },
  "zoom.masked_score": { en: "masked", zh: "掩码后" },

  // ---- LayerNorm
  "zoom.ln": { en: "LayerNorm", zh: "层归一化" },
  "zoom.ln.text": {
    en: "The {size} features of one token are brought to mean 0 and deviation 1, then each is given a weight and a bias that were learned. It is over the features of this token alone: no other token has a say in it.",
    zh: "把一个词元的 {size} 个特征调整到均值 0、标准差 1，然后各自乘以学到的权重、加上学到的偏置。计算只涉及这个词元自身的特征，与其他词元无关。",
  },
  "zoom.ln.before": { en: "Before", zh: "处理之前" },
  "zoom.ln.centred": { en: "Less the mean", zh: "减去均值" },
  "zoom.ln.scaled": { en: "Divided by the deviation", zh: "除以标准差" },
  "zoom.ln.weighted": { en: "With weight and bias", zh: "乘权重、加偏置" },
  "zoom.ln.identity": {
    en: "Ablated: this LayerNorm is left out, and the stream goes in as it is.",
    zh: "已消融：去掉了这个层归一化，残差流原样进入。",
  },
  "zoom.ln.mean_only": {
    en: "Ablated: the mean is taken off, and nothing is divided by the deviation.",
    zh: "已消融：只减去均值，不除以标准差。",
  },
  "zoom.told": {
    en: "mean {mean}, deviation {deviation}; from {low} to {high}",
    zh: "均值 {mean}，标准差 {deviation}；从 {low} 到 {high}",
  },
  "zoom.outside": { en: ", {count} of them beyond the picture", zh: "，其中 {count} 个在图外" },

  // ---- MLP
  "zoom.mlp": { en: "MLP", zh: "MLP" },
  "zoom.mlp.text": {
    en: "{size} neurons each read the token's LayerNormed stream, and GELU lets through what is positive and nearly nothing of what is negative. What they pass on is a weighted sum back into the stream; each token is computed by itself.",
    zh: "{size} 个神经元各自读取该词元经层归一化的残差流，GELU 放行正值，几乎挡住全部负值。它们的输出加权求和后写回残差流；每个词元单独计算。",
  },
  "zoom.mlp.pre": { en: "Before GELU", zh: "GELU 之前" },
  "zoom.mlp.post": { en: "After GELU", zh: "GELU 之后" },
  "zoom.mlp.curve": {
    en: "The curve, and on it this position's neurons; {count} lie beyond −4 to 4.",
    zh: "曲线以及该位置的各神经元；有 {count} 个在 −4 到 4 之外。",
  },
  "zoom.mlp.strongest": { en: "Strongest neurons", zh: "最强的神经元" },
  "zoom.mlp.neuron": { en: "neuron", zh: "神经元" },
  "zoom.mlp.pre_short": { en: "before", zh: "之前" },
  "zoom.mlp.post_short": { en: "after", zh: "之后" },
  "zoom.mlp.silent": {
    en: "{num} of {size} neurons ({share}) are inactive: 0 or less before GELU, and never below −0.171 after it.",
    zh: "{size} 个神经元中有 {num} 个（{share}）不活跃：GELU 之前不大于 0，之后不会低于 −0.171。",
  },
};
