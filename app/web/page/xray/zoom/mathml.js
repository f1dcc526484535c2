/** MathML in few letters. Knows no formula. */

const MATHML = "http://www.w3.org/1998/Math/MathML";

const FORMS = { "(": "prefix", ")": "postfix", "∑": "prefix" };

/** @param {string} tag @param {Record<string, string>} attributes @param {(Node | string)[]} children */
function node(tag, attributes, children) {
  const element = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.map((child) => (typeof child === "string" ? symbol(child) : child)));
  return element;
}

/** A string as MathML knows it: a number, a name, or else an operator. @param {string} text */
function symbol(text) {
  const tag = /^[\d.∞]+$/.test(text) ? "mn" : /^[\p{L}\p{M}]/u.test(text) ? "mi" : "mo";
  const element = document.createElementNS(MATHML, tag);
  element.textContent = text;
  if (tag === "mo" && text !== "−") element.setAttribute("form", FORMS[text] ?? "infix"); // a part of a formula may begin with it
  if (text === "(" || text === ")") element.setAttribute("stretchy", "false"); // few systems have a font that can
  return element;
}

/** @typedef {Node | string} Part */
/** @param {...Part} parts */
export const row = (...parts) => node("mrow", {}, parts);
/** A part of a formula that can be pointed at by its name. @param {string} name @param {...Part} parts */
export const part = (name, ...parts) => node("mrow", { "data-part": name }, parts);
/** @param {Part} base @param {Part} below */
export const sub = (base, below) => node("msub", {}, [base, below]);
/** @param {Part} base @param {Part} above */
export const sup = (base, above) => node("msup", {}, [base, above]);
/** @param {Part} base @param {Part} below @param {Part} above */
export const subsup = (base, below, above) => node("msubsup", {}, [base, below, above]);
/** @param {Part} above @param {Part} below */
export const over = (above, below) => node("mfrac", {}, [above, below]);
/** @param {...Part} parts */
export const root = (...parts) => node("msqrt", {}, parts);
/** A sum with what it runs over below. @param {Part} below @param {Part} [above] */
export const sum = (below, above) => (above ? node("munderover", {}, ["∑", below, above]) : node("munder", {}, ["∑", below]));
/** A vector: bold, upright. @param {string} name */
export const vector = (name) => {
  const element = symbol(name);
  element.setAttribute("mathvariant", "normal");
  element.classList.add("zoom-bold");
  return element;
};
/** A word that stands for a function. @param {string} name */
export const word = (name) => {
  const element = document.createElementNS(MATHML, "mi");
  element.setAttribute("mathvariant", "normal");
  element.textContent = name;
  return element;
};
/** White space between the parts of a line. */
export const space = () => node("mspace", { width: ".6em" }, []);
/** @param {...Part} parts */
export const display = (...parts) => node("math", { display: "block" }, parts);
