/** The index page's wall: who is here, and the last notes. */

import { ReconnectingWebSocket } from "../websocket/client.js";
import { reason } from "./reasons.js";

const MAX_DOTS = 24;
const MAX_NOTES = 20;
const MAX_LENGTH = 140;

const element = (id) => document.getElementById(id);
const socket = new ReconnectingWebSocket(document.body.dataset.wall);
/** The aliases of those who are here; the visitor's own is `me`, while there is a connection. */
let here = new Set();
let me = null;

const handlers = {
  /** The first message of each connection. */
  me(alias, event) {
    me = alias;
    here = new Set([...event.here, me]);
    element("notes").setAttribute("aria-live", "off");
    element("notes").replaceChildren(...event.notes.map(noteOf));
    showHere();
    keepEnd();
    element("post").disabled = false;
  },

  joined(alias) {
    here.add(alias);
    showHere();
  },

  left(alias) {
    if (alias !== me) here.delete(alias);
    showHere();
  },

  note(note) {
    const notes = element("notes");
    // It may have been stored before the view read the last notes, and published after that.
    if (notes.querySelector(`[data-id="${note.id}"]`)) return;
    // A screen reader reads out what is new; what was there before would have been too much.
    notes.setAttribute("aria-live", "polite");
    const follow = notes.scrollHeight - notes.scrollTop - notes.clientHeight < 40;
    notes.append(noteOf(note));
    while (notes.children.length > MAX_NOTES) notes.firstChild.remove();
    if (follow) keepEnd();
  },
};

function noteOf({ id, author, text, posted_at }) {
  const note = document.createElement("p");
  note.dataset.id = id;
  note.className = author === me ? "message mine" : "message";
  const body = document.createElement("span");
  body.className = "message-text";
  body.dir = "auto";
  body.textContent = text;
  const time = document.createElement("time");
  time.dateTime = posted_at;
  time.textContent = when(new Date(posted_at));
  note.append(dot(author), body, time);
  return note;
}

function when(date) {
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday
    ? date.toLocaleTimeString([], { timeStyle: "short" })
    : date.toLocaleDateString([], { day: "numeric", month: "short" });
}

/** A visitor's colour comes from the alias: one of twelve, in one of three shades. */
function dot(alias, tag = "i") {
  const dot = document.createElement(tag);
  const number = parseInt(alias, 16);
  dot.className = "dot";
  dot.dataset.alias = alias;
  dot.style.setProperty("--hue", (number % 12) * 30);
  dot.style.setProperty("--light", 0.5 + (Math.floor(number / 12) % 3) * 0.12);
  return dot;
}

function showHere() {
  if (me === null) return; // One's own coming may be told before the first message.
  const people = element("people");
  const aliases = [me, ...[...here].filter((alias) => alias !== me)].slice(0, MAX_DOTS);
  // Those who stay keep their dot: only a new one is animated.
  for (const item of [...people.children]) {
    if (!aliases.includes(item.dataset.alias)) item.remove();
  }
  for (const alias of aliases) {
    if (!people.querySelector(`[data-alias="${alias}"]`)) people.append(dot(alias, "li"));
  }
  people.firstChild.classList.add("you");
  // Once somebody else is here, the invitation need not draw the eye any more.
  element("second").classList.toggle("plain", here.size > 1);
  element("count").textContent = here.size.toLocaleString();
  element("count-text").textContent =
    here.size === 1 ? "person has this page open: you" : "people have this page open";
}

function keepEnd() {
  element("notes").scrollTop = element("notes").scrollHeight;
}

function showLeft() {
  const left = MAX_LENGTH - element("note").value.length;
  element("left").textContent = `${left} characters left`;
}

socket.addEventListener("message", ({ data }) => {
  const event = JSON.parse(data);
  for (const key of Object.keys(handlers)) {
    if (key in event) handlers[key](event[key], event);
  }
});

socket.addEventListener("close", ({ code }) => {
  element("count").textContent = "–";
  element("count-text").textContent = reason(code);
  me = null;
  element("people").replaceChildren();
  element("post").disabled = true;
});

element("note").addEventListener("input", showLeft);

element("wall-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = element("note").value.trim();
  if (!text || element("post").disabled) return;
  socket.send(text);
  event.target.reset();
  showLeft();
});

// Beside this window if the browser lets it, and in a new tab if not.
element("second").addEventListener("click", (event) => {
  const left = window.screenX + window.outerWidth / 2;
  const features = `popup,width=520,height=${window.outerHeight},left=${left},top=${window.screenY}`;
  if (matchMedia("(min-width: 60rem)").matches && window.open(event.target.href, "", features)) {
    event.preventDefault();
  }
});
