/** The index page: shows the server's clock, and what comes back of what it sends. */

import { ReconnectingWebSocket } from "../websocket/client.js";

const HELLO = "hello";
const MAX_BEATS = 120;
const MAX_MESSAGES = 100;
const MAX_AWAITED = 1_000;

const element = (id) => document.getElementById(id);
const socket = new ReconnectingWebSocket(document.body.dataset.echo);
const clock = new ReconnectingWebSocket(document.body.dataset.clock);

/** What was sent and has not come back yet; a hello has a bar in the picture. */
let awaited = [];
let helloCount = 0;
let retryTime = null;

function send(text, more) {
  socket.send(text);
  awaited.push({ text, time: performance.now(), ...more });
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

function showHello(sent, text, milliseconds) {
  helloCount += 1;
  element("beat-text").textContent = text;
  element("beat-count").textContent = helloCount.toLocaleString();
  element("beat-time").textContent = duration(milliseconds);
  sent.bar.classList.add("back");
  // From 0.1 ms to 100 ms, each factor of ten a third of the height.
  const share = (Math.log10(milliseconds) + 1) / 3;
  sent.bar.style.height = `${Math.min(1, Math.max(0.1, share)) * 100}%`;
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
  const time = new Date().toLocaleTimeString();
  meta.textContent = milliseconds === undefined ? time : `${duration(milliseconds)} · ${time}`;
  message.append(body, meta);
  log.append(message);
  if (log.children.length > MAX_MESSAGES) log.firstChild.remove();
  if (follow) log.scrollTop = log.scrollHeight;
}

function duration(milliseconds) {
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
}

function hello() {
  const bar = document.createElement("i");
  element("beats").append(bar);
  if (element("beats").children.length > MAX_BEATS) element("beats").firstChild.remove();
  if (socket.readyState === socket.OPEN) send(HELLO, { bar });
}

function showCountdown() {
  if (retryTime === null) return;
  const seconds = Math.ceil((retryTime - performance.now()) / 1000);
  showState("reconnecting", "Reconnecting", seconds > 0 ? `in ${seconds} s` : "now");
}

socket.addEventListener("open", () => {
  retryTime = null;
  showState("connected", "Connected");
});

socket.addEventListener("message", ({ data }) => {
  const text = typeof data === "string" ? data : `${data.size} bytes`;
  const sent = takeAwaited(text);
  const milliseconds = sent ? performance.now() - sent.time : undefined;
  if (sent?.bar) showHello(sent, text, milliseconds);
  else showMessage(text, milliseconds);
});

socket.addEventListener("close", (event) => {
  awaited = [];
  retryTime = null;
  if (socket.readyState === socket.CLOSED) {
    showState("closed", "Closed", [event.code, event.reason].join(" ").trim());
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
  hello();
  showCountdown();
}, 1000);
