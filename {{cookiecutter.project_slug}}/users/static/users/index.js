/** The index page: the echo and the clock, the state of the connection, and the code of the views. */

import { ReconnectingWebSocket } from "../websocket/client.js";
import { show } from "./code.js";
import { reason } from "./reasons.js";

const HELLO = "hello";
const MAX_MESSAGES = 100;
const MAX_AWAITED = 1_000;

const element = (id) => document.getElementById(id);
const socket = new ReconnectingWebSocket(document.body.dataset.echo);
const clock = new ReconnectingWebSocket(document.body.dataset.clock);

/** What was sent and has not come back yet. */
let awaited = [];
let helloCount = 0;
let retryTime = null;
let wasConnected = false;

function send(text, isHello) {
  socket.send(text);
  awaited.push({ text, isHello, time: performance.now() });
  if (awaited.length > MAX_AWAITED) awaited.shift();
}

/**
 * Find what a message answers: what it repeats or, of a view that says something else by now, the
 * oldest that has no answer.
 */
function takeAwaited(text) {
  const index = awaited.findIndex((sent) => sent.text === text);
  return awaited.splice(0, Math.max(index, 0) + 1).at(-1);
}

function showState(state, word, detail = "") {
  element("status").dataset.state = state;
  // A screen reader hears of a new state, not of each second of a countdown.
  if (element("state").textContent !== word) element("state").textContent = word;
  element("state-detail").textContent = detail;
  element("send").disabled = state !== "connected";
}

function showHello(text, milliseconds) {
  helloCount += 1;
  element("beat-text").textContent = text;
  element("beat-count").textContent = helloCount.toLocaleString();
  element("beat-time").textContent = duration(milliseconds);
}

function showMessage(text, milliseconds) {
  const log = element("log");
  const follow = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const message = document.createElement("p");
  const body = document.createElement("span");
  body.className = "log-text";
  body.textContent = text;
  const meta = document.createElement("span");
  meta.className = "log-meta";
  meta.textContent = milliseconds === undefined ? "" : duration(milliseconds);
  message.append(body, meta);
  log.append(message);
  if (log.children.length > MAX_MESSAGES) log.firstChild.remove();
  if (follow) log.scrollTop = log.scrollHeight;
}

function duration(milliseconds) {
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
}

function showCountdown() {
  if (retryTime === null) return;
  const seconds = Math.ceil((retryTime - performance.now()) / 1000);
  showState("reconnecting", "Reconnecting", seconds > 0 ? `in ${seconds} s` : "now");
}

socket.addEventListener("open", () => {
  retryTime = null;
  showState("connected", "Connected");
  element("reason").textContent = "";
  // If the server is away again, the next connection shows it.
  if (wasConnected) show().catch(() => {});
  wasConnected = true;
});

socket.addEventListener("message", ({ data }) => {
  const text = typeof data === "string" ? data : `${data.size} bytes`;
  const sent = takeAwaited(text);
  const milliseconds = sent ? performance.now() - sent.time : undefined;
  if (sent?.isHello) showHello(text, milliseconds);
  else showMessage(text, milliseconds);
});

socket.addEventListener("close", (event) => {
  awaited = [];
  retryTime = null;
  if (socket.readyState === socket.CLOSED) {
    showState("closed", "Closed", [event.code, event.reason].join(" ").trim());
  } else {
    element("reason").textContent = reason(event.code);
  }
});

socket.addEventListener("reconnecting", ({ detail }) => {
  retryTime = performance.now() + detail.delay;
  showCountdown();
});

clock.addEventListener("message", ({ data }) => {
  const { time, user } = JSON.parse(data);
  element("clock").dateTime = time;
  element("clock").textContent = new Date(time).toLocaleTimeString();
  element("who").textContent = user || "Anonymous";
});

clock.addEventListener("close", () => {
  element("clock").textContent = "–";
});

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket.readyState !== socket.OPEN) return;
  send(element("text").value);
  event.target.reset();
});

setInterval(() => {
  if (socket.readyState === socket.OPEN) send(HELLO, true);
  showCountdown();
}, 1000);
