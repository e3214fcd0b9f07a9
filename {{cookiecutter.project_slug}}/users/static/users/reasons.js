/** Why a connection was lost, by its close code, for people who develop the site. */

const REASONS = {
  1006: "The server does not answer. If it has stopped, its terminal says why.",
  1011: "The view failed (1011). The server’s log has the traceback.",
  1012: "The server asks to connect again (1012): it restarts, or your permissions have changed.",
  1013: "The server asks to come back later (1013).",
};

export function reason(code) {
  return REASONS[code] ?? `The server closed (${code}).`;
}
