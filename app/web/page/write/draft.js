/** What stands in the fields, kept as long as the tab: a page that is loaded anew has it again. Knows no page. */

/** @typedef {{ prompt: string, values: Record<string, any> }} Draft */

const NAME = "draft"; // of sessionStorage

/** @param {Draft} draft */
export function keep(draft) {
  try {
    sessionStorage.setItem(NAME, JSON.stringify(draft));
  } catch {
    sessionStorage.removeItem(NAME); // it has no room: an older one would be none of the reader's either
  }
}

/** What another version of the page left, or somebody broke, counts as none. @returns {Draft | null} */
export function kept() {
  try {
    const { prompt, values } = JSON.parse(sessionStorage.getItem(NAME) ?? "null");
    return typeof prompt === "string" && typeof values === "object" && values ? { prompt, values } : null;
  } catch {
    return null;
  }
}
