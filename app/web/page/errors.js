/** What goes wrong, in the reader's words and language. */

import { ConnectionLost, ServiceError } from "../client.js";
import { t } from "./i18n.js";

/**
 * A sentence for an error that the client has thrown; the service's own message, in English, is part of it.
 *
 * @param {unknown} error
 * @param {boolean} hasKey whether a key was sent
 * @returns {string}
 */
export function explain(error, hasKey) {
  if (error instanceof ConnectionLost) return t(error.cause ? "common.unreachable" : "common.cut_short");
  if (!(error instanceof ServiceError)) return error instanceof Error ? error.message : String(error);
  const { status, message, retryAfter } = error;
  if (status === 401) return t(hasKey ? "common.key_unknown" : "common.key_needed");
  if (status === 429 && retryAfter !== null) return t("common.busy", { message, seconds: retryAfter });
  if (status === 503 && retryAfter !== null) return t("common.not_ready", { message, seconds: retryAfter });
  return t(error.isEvent ? "common.failed" : "common.refused", { status, message });
}
