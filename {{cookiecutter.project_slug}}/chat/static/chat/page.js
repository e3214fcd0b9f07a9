/** What a room's page shows: messages, people, and how the connection is. */

const element = (id) => document.getElementById(id);
const log = element("log");
const me = document.body.dataset.user;
let atEnd = true;

/** Whether an event is about the visitor, whose name may have changed since the page was loaded. */
export const isMine = ({ user_id }) => String(user_id) === me;

/** Copy one of the page's templates, in the colour of a user. */
function copy(template, user_id) {
  const item = element(template).content.firstElementChild.cloneNode(true);
  // The next user gets quite another colour.
  item.style.setProperty("--hue", parseInt(user_id, 16) * 137.5);
  return item;
}

/** Put a message in its place, unless it is there. */
export function showMessage(message) {
  const { id, user, user_id, text, sent_at } = message;
  if (find(id)) return;
  const item = copy("message", user_id);
  const [name, body, time] = item.children;
  item.classList.toggle("mine", isMine(message));
  Object.assign(item.dataset, { id, user: user_id });
  name.textContent = user;
  body.textContent = text;
  time.dateTime = sent_at;
  time.textContent = when(new Date(sent_at));
  log.insertBefore(item, [...log.children].find((other) => other.dataset.id > id) ?? null);
}

/** Show these messages alone, and do not move what a reader looks at. */
export function replaceMessages(messages) {
  const ids = new Set(messages.map(({ id }) => String(id)));
  const stays = ({ dataset }) => ids.has(dataset.id);
  const items = [...log.children];
  const seen = items.find((item) => stays(item) && item.offsetTop >= log.scrollTop);
  const top = seen?.getBoundingClientRect().top;
  for (const item of items) {
    if (!stays(item)) item.remove();
  }
  messages.forEach(showMessage);
  group();
  if (seen) log.scrollTop += seen.getBoundingClientRect().top - top;
}

export function removeMessage(id) {
  find(id)?.remove();
}

export function announce(text) {
  const item = copy("announcement");
  item.textContent = text;
  log.append(item);
}

/** From now on a screen reader reads out what is new; the first messages would be too much. */
export function readOut() {
  log.setAttribute("aria-live", "polite");
}

/** Show the newest message, wherever the visitor has scrolled to. */
export function goToEnd() {
  atEnd = true;
  keepEnd();
}

/** Show who is here: names, by the users' ids. */
export function showPeople(here) {
  const people = [...here].sort(([, a], [, b]) => a.localeCompare(b)).map(([user_id, name]) => {
    const item = copy("person", user_id);
    item.textContent = name;
    return item;
  });
  element("people").replaceChildren(...people);
}

export function showTyping(names) {
  const who = names.length < 4 ? new Intl.ListFormat("en-GB").format(names) : "Several people";
  element("typing").textContent =
    names.length === 0 ? "" : `${who} ${names.length === 1 ? "is" : "are"} typing…`;
}

export function showError(text) {
  element("error").textContent = text;
  element("text").ariaInvalid = text ? "true" : null;
}

/** Show how the connection is, and if there is none, why. */
export function showState(state, word, reason = "") {
  element("status").dataset.state = state;
  element("state").textContent = word;
  element("reason").textContent = reason;
  element("send").disabled = state !== "connected";
}

/** Show that there will be no other connection: the visitor is logged out, or may not enter. */
export function showEnd(code, reason) {
  const explanation = element(`closed-${code}`);
  showState("closed", explanation?.dataset.state ?? `Closed ${reason || code}`);
  if (!explanation) return;
  explanation.hidden = false;
  element("form").hidden = true;
  element("account").hidden = code === 3000;
}

function find(id) {
  return log.querySelector(`[data-id="${id}"]`);
}

/** Return the time, with the date if that is not today's. */
function when(date) {
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], { dateStyle: isToday ? undefined : "medium", timeStyle: "short" });
}

/** Of what one user says in a row, the first message alone shows the name. */
function group() {
  let before;
  for (const { classList, dataset } of log.children) {
    classList.toggle("follows", before !== undefined && dataset.user === before);
    before = dataset.user;
  }
}

/** Show the newest message, unless the visitor has scrolled up to older ones. */
function keepEnd() {
  if (atEnd) log.scrollTop = log.scrollHeight;
}

log.addEventListener("scroll", () => {
  atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
});
new ResizeObserver(keepEnd).observe(log);
new MutationObserver(() => {
  group();
  keepEnd();
}).observe(log, { childList: true });
