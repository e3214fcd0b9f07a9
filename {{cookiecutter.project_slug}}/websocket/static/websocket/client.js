/**
 * A WebSocket that comes back: the browser's own interface, and a new connection when one is lost.
 *
 *     import { ReconnectingWebSocket } from "../websocket/client.js";
 *
 *     const socket = new ReconnectingWebSocket("/ws/");
 *     socket.onmessage = (event) => console.log(event.data);
 *     socket.onopen = () => socket.send("hello");
 */

/** Close codes that mean "do not come back": done, policy violation, unauthorized, forbidden. With
 * the last two, a handshake is refused; after any other code, the next handshake decides. */
const FINAL_CODES = [1000, 1008, 3000, 3003];

/** The most groups whose positions are sent when a connection is opened again. */
const MAX_POSITIONS = 100;

/** The sockets whose own messages are not wanted back: a lost one may have sent some. */
const MAX_IDS = 4;

/** What a server sends to a page that resumes: a group's position, and the id of the socket. */
const POSITION = /^([0-9a-f]{8})\.([0-9a-f]{8})-([0-9]+)$/;
const ID = /^[0-9a-f]{32}$/;

/** A connection that lasted this long, in ms, was a good one: the next delay is a short one again. */
const STABLE = 5_000;

const { CONNECTING, OPEN, CLOSING, CLOSED } = WebSocket;

/**
 * What differs from a WebSocket of the browser:
 *
 * - `open` comes once for each connection, and `close` once for each that is lost or fails. In a
 *   `close` event, `readyState` is CLOSED if it was the last one, and CONNECTING if not; then a
 *   `reconnecting` event follows, whose `detail` is `{attempt, delay}`, the delay in milliseconds.
 * - The last one is the one after `close()` was called, or that the server closed with one of the
 *   codes in `final`: 1000, 1008, 3000 (log in first) and 3003 (forbidden). A handshake that was
 *   refused otherwise is tried again: a browser does not tell it from a server that is down.
 * - Nothing is kept for later: `send()` throws while CONNECTING, which includes the time between
 *   two connections, so that no message is lost in silence. Send from `open`, or look at
 *   `readyState` first.
 * - With `resume`, each connection begins where the last one ended: the messages of groups in
 *   WEBSOCKET_HISTORY that were published meanwhile come first, each exactly once and in order. If
 *   that is not possible, `join()` returns False, and the view sends the state. The position of a
 *   message is its `lastEventId`.
 */
export class ReconnectingWebSocket extends EventTarget {
  static CONNECTING = CONNECTING;
  static OPEN = OPEN;
  static CLOSING = CLOSING;
  static CLOSED = CLOSED;

  CONNECTING = CONNECTING;
  OPEN = OPEN;
  CLOSING = CLOSING;
  CLOSED = CLOSED;

  /** @type {?function(Event): void} */
  onopen = null;
  /** @type {?function(MessageEvent): void} */
  onmessage = null;
  /** @type {?function(Event): void} */
  onerror = null;
  /** @type {?function(CloseEvent): void} */
  onclose = null;
  /** @type {?function(CustomEvent<{attempt: number, delay: number}>): void} */
  onreconnecting = null;

  #url;
  #protocols;
  #firstDelay;
  #maxDelay;
  #final;
  #resume;
  /** The ids of the last sockets, and what was received of each group: "<epoch>-<offset>". */
  #ids = [];
  #positions = new Map();
  #binaryType = "blob";
  #socket = null;
  #attempt = 0;
  #waiting = null;
  #over = false;

  /**
   * @param {string|URL|function(): (string|URL)} url relative to the page, http: standing for ws:;
   *   a function is called for each connection, so that one can go on where the last one ended:
   *   `() => "/ws/?after=" + lastId`
   * @param {string|string[]} [protocols] subprotocols, the one liked best first
   * @param {object} [options] each delay is a random part of a span that doubles every time
   * @param {number} [options.firstDelay] the first span, in milliseconds
   * @param {number} [options.maxDelay] the longest span, in milliseconds
   * @param {number[]} [options.final] the close codes after which not to come back, in place of
   *   1000, 1008, 3000 and 3003; `[]` for none
   * @param {boolean|string} [options.resume] whether to ask for what was missed; a string is the
   *   position that the page shows, of `websocket.groups.position`, or several with commas
   * @throws {DOMException} SyntaxError, as WebSocket does
   */
  constructor(
    url,
    protocols = [],
    { firstDelay = 1_000, maxDelay = 30_000, final = FINAL_CODES, resume = false } = {},
  ) {
    super();
    this.#url = url;
    this.#protocols = protocols;
    this.#firstDelay = firstDelay;
    this.#maxDelay = maxDelay;
    this.#final = final;
    this.#resume = resume !== false;
    for (const position of String(resume).split(",")) this.#reach(position);
    for (const type of ["open", "message", "error", "close", "reconnecting"]) {
      this.addEventListener(type, (event) => this[`on${type}`]?.(event));
    }
    this.#connect();
  }

  get url() {
    return this.#socket.url;
  }

  get protocol() {
    return this.#socket.protocol;
  }

  get extensions() {
    return this.#socket.extensions;
  }

  get bufferedAmount() {
    return this.#socket.bufferedAmount;
  }

  get binaryType() {
    return this.#binaryType;
  }

  set binaryType(value) {
    this.#socket.binaryType = value;
    this.#binaryType = this.#socket.binaryType; // Unless the value is none of the two.
    if (this.#resume) this.#socket.binaryType = "arraybuffer";
  }

  /** CONNECTING between two connections as well; CLOSED only when there will be no other. */
  get readyState() {
    const state = this.#socket.readyState;
    return state === CLOSED && !this.#over ? CONNECTING : state;
  }

  /**
   * Send a message now. Like a browser's socket, this discards it while CLOSING or CLOSED.
   *
   * @param {string|Blob|ArrayBuffer|ArrayBufferView} data
   * @throws {DOMException} InvalidStateError while CONNECTING
   */
  send(data) {
    if (this.readyState === CONNECTING) {
      throw new DOMException("There is no connection yet to send on.", "InvalidStateError");
    }
    this.#socket.send(data);
  }

  /**
   * Close, and do not come back.
   *
   * @param {number} [code] 1000, or 3000 to 4999
   * @param {string} [reason] at most 123 bytes of UTF-8
   * @throws {DOMException} InvalidAccessError or SyntaxError, as WebSocket does
   */
  close(code, reason) {
    this.#socket.close(code, reason);
    this.#over = true;
    if (this.#waiting) {
      this.#stopWaiting();
      // What a browser's socket reports that is closed before it ever opened.
      queueMicrotask(() => this.dispatchEvent(new CloseEvent("close", { code: 1006 })));
    }
  }

  #connect() {
    const url = new URL(typeof this.#url === "function" ? this.#url() : this.#url, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    if (this.#resume) {
      const positions = Array.from(this.#positions, ([key, place]) => `${key}.${place}`);
      url.searchParams.set("resume", [this.#ids.join("."), ...positions].join(","));
    }
    const socket = new WebSocket(url, this.#protocols);
    socket.binaryType = this.#resume ? "arraybuffer" : this.#binaryType;
    this.#socket = socket;

    // An event in flight cannot be dispatched again, but a copy of it can.
    const repeat = (event) => this.dispatchEvent(new event.constructor(event.type, event));
    let opened = Infinity;
    socket.onopen = (event) => {
      opened = performance.now();
      repeat(event);
    };
    socket.onmessage = this.#resume ? (event) => this.#unmark(event) : repeat;
    socket.onerror = repeat;
    socket.onclose = (event) => {
      // A server that accepts and closes at once gets the longer and longer delays too.
      if (performance.now() - opened >= STABLE) this.#attempt = 0;
      this.#over ||= this.#final.includes(event.code);
      repeat(event);
      if (!this.#over) this.#wait(event.code);
    };
  }

  /** Take the position from the line before a message's data; drop a message that came before. */
  #unmark({ data, origin }) {
    const isText = typeof data === "string";
    const end = isText ? data.indexOf("\n") : new Uint8Array(data).indexOf(10);
    const line = isText ? data.slice(0, Math.max(end, 0)) : new TextDecoder().decode(data.slice(0, Math.max(end, 0)));
    if (end < 0 && POSITION.test(data)) {
      this.#reach(data);
    } else if (end < 0 && ID.test(data)) {
      if (this.#ids.at(-1) !== data) this.#ids = [...this.#ids, data].slice(-MAX_IDS);
    } else if (end < 0 || (line && !POSITION.test(line))) {
      this.#pass(data, origin, ""); // Of a server that does not know `resume`.
    } else if (!line || this.#reach(line)) {
      this.#pass(data.slice(end + 1), origin, line);
    }
  }

  #pass(data, origin, lastEventId) {
    const isBlob = typeof data !== "string" && this.#binaryType === "blob";
    const message = { data: isBlob ? new Blob([data]) : data, origin, lastEventId };
    this.dispatchEvent(new MessageEvent("message", message));
  }

  /** Note a position, and return whether it is one, and is new. */
  #reach(position) {
    const [, key, epoch, offset] = POSITION.exec(position) ?? [];
    const [knownEpoch, knownOffset] = this.#positions.get(key)?.split("-") ?? [];
    if (!key || (epoch === knownEpoch && Number(offset) <= Number(knownOffset))) return false;
    this.#positions.delete(key); // The one that was used last comes last.
    this.#positions.set(key, `${epoch}-${offset}`);
    if (this.#positions.size > MAX_POSITIONS) {
      this.#positions.delete(this.#positions.keys().next().value);
    }
    return true;
  }

  #wait(code) {
    // Full jitter: the clients that one restart cut off do not all come back in the same moment.
    const span = Math.min(this.#maxDelay, this.#firstDelay * 2 ** this.#attempt);
    // 1012 may mean a new login, whose cookie is on its way to the browser: let it arrive.
    const delay = (code === 1012 ? Math.random() + 1 : Math.random() * 2) * span / 2;
    this.#attempt += 1;
    this.#waiting = new AbortController();

    const { signal } = this.#waiting;
    const retry = () => this.#retry();
    const retryIfVisible = () => document.hidden || retry();
    const timer = setTimeout(retry, delay);
    signal.addEventListener("abort", () => clearTimeout(timer));
    globalThis.addEventListener("online", retry, { signal });
    globalThis.document?.addEventListener("visibilitychange", retryIfVisible, { signal });
    const detail = { attempt: this.#attempt, delay };
    this.dispatchEvent(new CustomEvent("reconnecting", { detail }));
  }

  #stopWaiting() {
    this.#waiting.abort();
    this.#waiting = null;
  }

  #retry() {
    this.#stopWaiting();
    try {
      this.#connect();
    } catch (error) {
      // The function that makes the URL failed: say so, and ask it again later.
      reportError(error);
      this.#wait();
    }
  }
}
