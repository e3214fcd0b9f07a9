/** The code of the views on the index page: coloured, and fetched again when the server is back. */

const PYTHON = new RegExp(
  [
    /(?<comment>#.*)/,
    /(?<string>[rbf]?(?:"""[^]*?"""|'''[^]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))/,
    /(?<decorator>^\s*@[\w.]+)/,
    /\b(?<keyword>and|as|async|await|break|case|class|continue|def|del|elif|else|except|finally|for|from|if|import|in|is|lambda|match|not|or|pass|raise|return|try|while|with|yield|None|True|False)\b/,
    /(?<=\bdef )(?<name>\w+)/,
  ]
    .map(({ source }) => source)
    .join("|"),
  "gm",
);

const blocks = (page) => page.querySelectorAll("[data-code]");

function colour(block) {
  const text = block.textContent;
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(PYTHON)) {
    const span = document.createElement("span");
    span.className = Object.keys(match.groups).find((kind) => match.groups[kind] !== undefined);
    span.textContent = match[0];
    parts.push(text.slice(end, match.index), span);
    end = match.index + match[0].length;
  }
  block.replaceChildren(...parts, text.slice(end));
}

/** Show what the server runs by now, if it is another code than before. */
export async function show() {
  if (blocks(document).length === 0) return;
  const response = await fetch(location.href);
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const fresh of page.querySelectorAll("[data-line]")) {
    const line = document.querySelector(`[data-line="${fresh.dataset.line}"]`);
    if (line) line.textContent = fresh.textContent;
  }
  for (const fresh of blocks(page)) {
    const block = document.querySelector(`[data-code="${fresh.dataset.code}"]`);
    if (!block || block.textContent === fresh.textContent) continue;
    block.textContent = fresh.textContent;
    colour(block);
    mark(block.closest("details"));
  }
}

function mark(details) {
  details.open = true;
  details.classList.remove("changed");
  details.getBoundingClientRect(); // Without it, a second change would start no animation.
  details.classList.add("changed");
}

blocks(document).forEach(colour);
// On a narrow screen the code comes below what it does: there it waits until it is asked for.
if (matchMedia("(max-width: 60rem)").matches) {
  for (const details of document.querySelectorAll("details.code")) details.open = false;
}
