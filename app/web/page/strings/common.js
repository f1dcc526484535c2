/** The texts of the shell, and those that several views share. Their keys begin with "common.". */

/** @type {Record<string, { en: string, zh: string }>} */
export const common = {
  "common.skip": { en: "Skip to the content", zh: "跳到正文" },
  "common.language": { en: "Language", zh: "语言" },
  "common.views": { en: "Views", zh: "视图" },
  "common.write": { en: "Write", zh: "写作" },
  "common.xray": { en: "X-ray", zh: "透视" },
  "common.more": { en: "More", zh: "更多" },
  "common.docs": { en: "API", zh: "接口文档" },
  "common.info": { en: "Model", zh: "模型信息" },
  "common.metrics": { en: "Metrics", zh: "运行指标" },
  "common.model": { en: "{name} · {parameters} parameters · {dtype} on {device}", zh: "{name} · {parameters}参数 · {device} 上的 {dtype}" },
  "common.many": { en: "{number} M", zh: "{number} 万" },
  "common.most": { en: "{number} B", zh: "{number} 亿" },
  "common.key": { en: "API key; this tab alone remembers it", zh: "API 密钥；只保存在当前标签页" },
  "common.key_use": { en: "Use it", zh: "使用" },
  "common.key_needed": { en: "The service asks for an API key.", zh: "服务需要 API 密钥。" },
  "common.key_unknown": { en: "The service does not know this API key.", zh: "服务不认识这个 API 密钥。" },
  "common.busy": { en: "The service is busy: {message}. Retry after {seconds} s.", zh: "服务正忙：{message}。请在 {seconds} 秒后重试。" },
  "common.not_ready": {
    en: "The service is not ready: {message}. Retry after {seconds} s.",
    zh: "服务尚未就绪：{message}。请在 {seconds} 秒后重试。",
  },
  "common.refused": { en: "The service refused this ({status}): {message}", zh: "服务拒绝了请求（{status}）：{message}" },
  "common.failed": { en: "The generation failed: {message}", zh: "生成失败：{message}" },
  "common.unreachable": {
    en: "The service cannot be reached, or the connection broke.",
    zh: "无法连接到服务，或连接已断开。",
  },
  "common.cut_short": { en: "The connection ended before the text did.", zh: "文本尚未完成，连接就结束了。" },
  "common.inspect_off": {
    en: "This service does not inspect: it was started with GPT2_INSPECT=off, or without PyTorch. Start it with GPT2_INSPECT=on to look inside.",
    zh: "此服务未开启透视：启动时设置了 GPT2_INSPECT=off，或没有安装 PyTorch。请用 GPT2_INSPECT=on 启动后再查看。",
  },
};
