/** A room's page: shows who is there and what is said, and says what the visitor types. */

import { ReconnectingWebSocket } from "../websocket/client.js";

/** How often a typing hint is sent while somebody types, and how long one is shown, in ms. */
const HINT_EVERY = 2_000;
const HINT_LASTS = 4_000;

const element = (id) => document.getElementById(id);
const log = element("log");
/** Whether an event is about the visitor, whose name may have changed since the page was loaded. */
const isMine = ({ user_id }) => String(user_id) === document.body.dataset.user;

/** The id up to which the page has all messages: what a new connection goes on from. */
let after = null;
/** What `after` was when this connection was asked for. */
let askedAfter = null;
/** Whether this connection has sent what was missed: until then, what is new may be far ahead. */
let live = false;
/** What was sent and has not come back yet, by its key. */
const pending = new Map();
let hinted = -Infinity;
let atEnd = true;
const typing = new Map();
/** Who is in the room: names, by the users' ids. */
const here = new Map();

const socket = new ReconnectingWebSocket(() => {
  askedAfter = after;
  const url = new URL(document.body.dataset.socket, location.href);
  if (after !== null) {
    url.searchParams.set("first", shown()[0]?.dataset.id ?? after);
    url.searchParams.set("after", after);
  }
  return url;
});

function shown() {
  return log.querySelectorAll("[data-id]");
}

const handlers = {
  here({ members }) {
    here.clear();
    for (const [user_id, { name }] of Object.entries(members)) here.set(user_id, name);
    showHere();
  },

  joined({ user_id, name }) {
    here.set(user_id, name);
    showHere();
  },

  left({ user_id }) {
    here.delete(user_id);
    showHere();
  },

  history({ messages, more }) {
    messages.forEach(show);
    keepEnd();
    if (messages.length) after = Math.max(after, messages.at(-1).id);
    if (!more) goLive();
  },

  message(message) {
    show(message);
    atEnd ||= isMine(message);
    keepEnd();
    if (live) after = Math.max(after, message.id);
    stopTyping(message.user);
  },

  /** Of the messages that the page had when it asked, these are still there. */
  kept({ ids }) {
    const there = new Set(ids);
    for (const item of shown()) {
      const id = Number(item.dataset.id);
      if (id <= askedAfter && !there.has(id)) remove(item);
    }
  },

  removed({ id }) {
    remove(log.querySelector(`[data-id="${id}"]`));
  },

  announcement({ text }) {
    const item = document.createElement("p");
    item.className = "announcement";
    item.textContent = text;
    log.append(item);
    keepEnd();
  },

  typing(hint) {
    if (isMine(hint)) return;
    const { user } = hint;
    clearTimeout(typing.get(user));
    typing.set(user, setTimeout(() => stopTyping(user), HINT_LASTS));
    showTyping();
  },

  errors({ key, errors }) {
    // Its key is taken: it had arrived before the connection was lost.
    if (errors.key?.some(({ code }) => code === "unique")) pending.delete(key);
    else giveBack(key, Object.values(errors).flat().map(({ message }) => message).join(" "));
  },
};

/** Put a message in its place, unless it is there. */
function show(message) {
  const { id, key, user, user_id, text, sent_at } = message;
  pending.delete(key);
  if (log.querySelector(`[data-id="${id}"]`)) return;
  const item = document.createElement("article");
  item.className = isMine(message) ? "message mine" : "message";
  item.dataset.id = id;
  item.dataset.user = user_id;
  const time = document.createElement("time");
  time.dateTime = sent_at;
  time.textContent = when(new Date(sent_at));
  item.append(colour(span("message-user dot", user), user_id), span("message-text", text), time);
  let before = log.lastElementChild;
  while (before && Number(before.dataset.id) > id) before = before.previousElementSibling;
  if (before) before.after(item);
  else log.prepend(item);
  group(item);
  group(item.nextElementSibling);
}

function remove(item) {
  const next = item?.nextElementSibling;
  item?.remove();
  group(next);
}

/** Of what one user says in a row, the first message alone shows the name. */
function group(item) {
  const { user } = item?.previousElementSibling?.dataset ?? {};
  item?.classList.toggle("follows", user !== undefined && user === item.dataset.user);
}

/** Give each user another colour than the next one has. */
function colour(item, user_id) {
  let number = 0;
  for (const char of String(user_id)) number = (number * 31 + char.charCodeAt(0)) % 9973;
  item.style.setProperty("--hue", Math.round(number * 137.5) % 360);
  return item;
}

function showHere() {
  const items = [...here].sort(([, a], [, b]) => a.localeCompare(b)).map(([user_id, name]) => {
    const item = document.createElement("li");
    item.className = "dot";
    item.textContent = name;
    return colour(item, user_id);
  });
  element("people").replaceChildren(...items);
}

function span(className, text) {
  const span = document.createElement("span");
  span.className = className;
  span.textContent = text;
  return span;
}

function when(date) {
  const time = date.toLocaleTimeString([], { timeStyle: "short" });
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? time : `${date.toLocaleDateString([], { dateStyle: "medium" })}, ${time}`;
}

/** Show the newest message, unless the visitor has scrolled up to older ones. */
function keepEnd() {
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function goLive() {
  live = true;
  // From now on a screen reader reads out what is new; the history would have been too much.
  log.setAttribute("aria-live", "polite");
  showState("connected", "Connected");
  // What is not among what was missed had not arrived when the connection was lost.
  pending.forEach((text, key) => say(key, text));
}

function showState(state, word) {
  element("status").dataset.state = state;
  element("state").textContent = word;
  element("send").disabled = state !== "connected";
}

function showTyping() {
  const names = [...typing.keys()];
  element("typing").textContent =
    names.length === 0 ? ""
    : names.length === 1 ? `${names[0]} is typing…`
    : names.length < 4 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)} are typing…`
    : "Several people are typing…";
}

function stopTyping(user) {
  clearTimeout(typing.get(user));
  if (typing.delete(user)) showTyping();
}

function showError(text) {
  element("error").textContent = text;
  if (text) element("text").setAttribute("aria-invalid", "true");
  else element("text").removeAttribute("aria-invalid");
}

function say(key, text) {
  pending.set(key, text);
  socket.send(JSON.stringify({ type: "say", key, text }));
}

/** Put what was refused back where it was typed, and say why. */
function giveBack(key, why) {
  element("text").value ||= pending.get(key);
  pending.delete(key);
  showError(why);
}

/** Show why there will be no other connection: the visitor is logged out, or may not enter. */
function end(state, explanation) {
  showState("closed", state);
  element(explanation).hidden = false;
  element("form").hidden = true;
  element("account").hidden = explanation === "logged-out";
}

log.addEventListener("scroll", () => {
  atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
});
new ResizeObserver(keepEnd).observe(log);

socket.addEventListener("message", ({ data }) => {
  const event = JSON.parse(data);
  handlers[event.type]?.(event);
});

socket.addEventListener("close", ({ code, reason }) => {
  live = false;
  for (const user of [...typing.keys()]) stopTyping(user);
  here.clear();
  showHere();
  // Too big, or too much for the server: sent again, it would be so again.
  if ([1009, 1011].includes(code)) {
    pending.forEach((text, key) => giveBack(key, "This could not be sent."));
  }
  if (code === 3000) end("Logged out", "logged-out");
  else if (code === 3003) end("No access", "no-access");
  else if (socket.readyState === socket.CLOSED) showState("closed", `Closed ${reason || code}`);
  else showState("reconnecting", "Reconnecting");
});

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!live) return;
  const { value } = element("text");
  event.target.reset();
  element("text").focus();
  showError("");
  say(newKey(), value);
  hinted = -Infinity;
});

element("text").addEventListener("input", () => {
  showError("");
  const now = performance.now();
  if (!live || now - hinted < HINT_EVERY) return;
  hinted = now;
  socket.send(JSON.stringify({ type: "typing" }));
});

/** Not crypto.randomUUID(), which is only there on HTTPS and on localhost. */
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
