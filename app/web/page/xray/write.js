/** Writing in place: what scrubbing changes has its nodes already. */

/** Change a text's node rather than replace it, and only if it says something else. @param {Node} node @param {string} words */
export function write(node, words) {
  if (!node.firstChild) node.appendChild(document.createTextNode(words));
  else if (node.firstChild.nodeValue !== words) node.firstChild.nodeValue = words;
}
