/** The last step: z goes through this head's rows of c_proj and is added to the stream; what that adds, as norms beside each other. */

import { el } from "../../dom.js";
import { t } from "../../i18n.js";
import { normBars } from "./norm_bars.js";
import { figure, norm } from "./numbers.js";

/** @param {import("./zoom.js").Scene} scene */
export function projectStep(scene) {
  const bars = normBars(["zoom.stream_before", "zoom.all_heads", "zoom.this_head", "zoom.norm_z"]);
  const note = el("p", { class: "zoom-note" });
  const own = contributions(scene);
  let latest = null;
  const show = (head, query) => {
    latest = [head, query];
    const added = own.of(head, query);
    const all = norm(head.block.hook_attn_out.row(query));
    bars.show([scene.norms.resid_pre[query], all, added, norm(head.z(query))]);
    note.textContent = added === null ? t("zoom.loading") : t("zoom.share", { own: figure(added), all: figure(all) });
    if (added === null)
      own.ask(head).then(
        () => latest[0] === head && show(...latest),
        (error) => (note.textContent = scene.explain(error)),
      );
  };
  return { node: el("div", null, bars.node, note), show };
}

/** What each head adds to the stream: attn_out less what it is without that head, asked for once a head. */
function contributions(scene) {
  const without = new Map();
  const of = (head, query) => {
    const others = without.get(head.head)?.row(query);
    return others ? norm(head.block.hook_attn_out.row(query).map((x, c) => x - others[c])) : null;
  };
  const ask = async (head) => without.set(head.head, await scene.withoutHead(head.head));
  return { of, ask };
}
