/** A room's page: shows who is there and what is said, and says what the visitor types. */

import { ReconnectingWebSocket } from "../websocket/client.js";
import { reason as why } from "../users/reasons.js";
import * as page from "./page.js";

/** How often a typing hint is sent while somebody types, and how long one is shown, in ms. */
const HINT_EVERY = 2_000;
const HINT_LASTS = 4_000;

const form = document.getElementById("form");
const { text } = form.elements;
const socket = new ReconnectingWebSocket(document.body.dataset.socket, [], { resume: true });

/** The events that wait for this connection's state, which may be older than they are. */
let early = [];
/** What was sent and has not come back yet, by its key. */
const pending = new Map();
/** Who is in the room: names, by the users' ids. */
const here = new Map();
/** Who types: timers, by the users' names. */
const typing = new Map();
let hinted = -Infinity;

const handlers = {
  /** The first event of each connection; without messages if the page has them. */
  state({ here: members, messages }) {
    if (messages) {
      messages.forEach(({ key }) => pending.delete(key));
      page.replaceMessages(messages);
    }
    for (const [user_id, { name }] of Object.entries(members)) here.set(user_id, name);
    page.showPeople(here);
    const events = early;
    early = null;
    events.forEach(handle);
    page.readOut();
    page.showState("connected", "Connected");
    // What has not come back by now had not arrived when the connection was lost.
    for (const [key, said] of pending) say(key, said);
  },

  joined({ user_id, name }) {
    here.set(user_id, name);
    page.showPeople(here);
  },

  left({ user_id }) {
    here.delete(user_id);
    page.showPeople(here);
  },

  message(message) {
    pending.delete(message.key);
    stopTyping(message.user);
    page.showMessage(message);
    if (page.isMine(message)) page.goToEnd();
  },

  removed({ id }) {
    page.removeMessage(id);
  },

  announcement(announcement) {
    page.announce(announcement.text);
  },

  typing(hint) {
    if (page.isMine(hint)) return;
    clearTimeout(typing.get(hint.user));
    typing.set(hint.user, setTimeout(stopTyping, HINT_LASTS, hint.user));
    page.showTyping([...typing.keys()]);
  },

  errors({ key, errors }) {
    // Its key is taken: it had arrived before the connection was lost.
    if (errors.key?.some(({ code }) => code === "unique")) pending.delete(key);
    else giveBack(key, Object.values(errors).flat().map(({ message }) => message).join(" "));
  },
};

const handle = (event) => handlers[event.type]?.(event);

function stopTyping(user) {
  clearTimeout(typing.get(user));
  if (typing.delete(user)) page.showTyping([...typing.keys()]);
}

function say(key, said) {
  pending.set(key, said);
  socket.send(JSON.stringify({ type: "say", key, text: said }));
}

/** Put what was refused back where it was typed, and say why. */
function giveBack(key, why) {
  text.value ||= pending.get(key);
  pending.delete(key);
  page.showError(why);
}

socket.addEventListener("message", ({ data }) => {
  const event = JSON.parse(data);
  if (early && event.type !== "state") early.push(event);
  else handle(event);
});

socket.addEventListener("close", ({ code, reason }) => {
  early?.forEach(handle); // The next connection begins after them.
  early = [];
  for (const user of typing.keys()) stopTyping(user);
  here.clear();
  page.showPeople(here);
  // Too big, or too much for the server: sent again, it would be so again.
  if ([1009, 1011].includes(code)) {
    for (const key of pending.keys()) giveBack(key, "This could not be sent.");
  }
  if (socket.readyState === socket.CLOSED) page.showEnd(code, reason);
  else page.showState("reconnecting", "Reconnecting", why(code));
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const { value } = text;
  form.reset();
  text.focus();
  page.showError("");
  say(newKey(), value);
  hinted = -Infinity;
});

text.addEventListener("input", () => {
  page.showError("");
  const now = performance.now();
  if (early || now - hinted < HINT_EVERY) return;
  hinted = now;
  socket.send(JSON.stringify({ type: "typing" }));
});

/** Not crypto.randomUUID(), which is only there on HTTPS and on localhost. */
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
