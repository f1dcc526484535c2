/** Every text of the page by its key, in every language. {name} stands for a value; a test holds keys and values against their uses. */

import { common } from "./strings/common.js";
import { write } from "./strings/write.js";
import { xray } from "./strings/xray.js";
import { zoom } from "./strings/zoom.js";

/** @type {Record<string, { en: string, zh: string }>} */
export const strings = { ...common, ...write, ...xray, ...zoom };
