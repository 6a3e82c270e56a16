// Keeps the page live: fetches it again, carries the differences over (so that focus stays where it is), and sends what buttons ask for.
// Nothing is ever put together from text here: what comes from outside was escaped where the page was written.
"use strict";

const EVERY = 2000;
const live = document.getElementById("live");
const told = document.getElementById("told");
const lost = document.getElementById("lost");
let totals = new Map();
let timer;
let telling;
let running;
// What [admin] auth wants, where it wants something: in this page's memory only.
let token;

function headers(more) {
  return token === undefined ? more : { ...more, Authorization: `Bearer ${token}` };
}

function morph(old, fresh) {
  if (old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
    old.replaceWith(document.importNode(fresh, true));
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  after.forEach((node, i) => (before[i] ? morph(before[i], node) : old.append(document.importNode(node, true))));
  before.slice(after.length).forEach((node) => node.remove());
}

// Requests per second since the last look, from the totals the page holds.
function rates(page) {
  const seen = new Map();
  const now = performance.now();
  for (const cell of page.querySelectorAll("[data-total]")) {
    const name = cell.dataset.upstream;
    const total = Number(cell.dataset.total);
    const last = totals.get(name);
    if (last && total >= last.total && now > last.now) {
      cell.textContent = `${((total - last.total) / ((now - last.now) / 1000)).toFixed(1)}/s`;
    }
    seen.set(name, { total, now });
  }
  totals = seen;
}

function states(page) {
  return new Map([...page.querySelectorAll("[data-state]")].map((e) => [e.dataset.what, e.dataset.state]));
}

function tell(text) {
  told.textContent = text;
  clearTimeout(telling);
  telling = setTimeout(() => (told.textContent = ""), 10000);
}

async function look() {
  const answer = await fetch("/", { cache: "no-store", headers: headers({}), signal: AbortSignal.timeout(5000) });
  if (answer.status === 401) token = undefined;
  else if (!answer.ok) throw new Error(`status ${answer.status}`);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("live");
  if (!fresh) throw new Error("not this page");
  rates(fresh);
  const [before, asked] = [states(live), asks()];
  morph(live, fresh);
  document.title = live.querySelector("[data-title]")?.dataset.title ?? "cupbearer";
  if (asks()) {
    live.querySelector("#token").value = "";
    live.querySelector("#token").focus();
  }
  lost.textContent = "";
  if (asked) return;
  const changes = [...states(live)].filter(([what, state]) => before.get(what) !== state).map(([what, state]) => `${what}: ${state}`);
  if (changes.length > 0) tell(changes.join(". "));
}

// Whether the page wants a token first.
function asks() {
  return live.querySelector("#ask") !== null;
}

// One look at a time: whoever asks while one is under way gets that one.
function soon(wait) {
  clearTimeout(timer);
  // Nothing is seen without it, and who types is not disturbed.
  if (asks() && token === undefined) return;
  timer = setTimeout(async () => {
    running ??= look().catch(() => {
      lost.textContent = "cupbearer does not answer. What is shown is old.";
    });
    await running;
    running = undefined;
    soon(EVERY);
  }, document.hidden ? EVERY * 10 : wait);
}

// What was asked for, and when it is done or why not.
function becomes(done, { at, held }) {
  if (held !== undefined) return `${done} Not now: ${held}.`;
  return Date.parse(at) > Date.now() + 1500 ? `${done} Not before ${at.replace("T", " ").replace("Z", " UTC")}.` : done;
}

live.addEventListener("submit", (event) => {
  event.preventDefault();
  token = live.querySelector("#token").value;
  soon(0);
});
live.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-post]");
  if (!button || button.getAttribute("aria-disabled") === "true") return;
  const { post, done, ask } = button.dataset;
  if (ask && !window.confirm(ask)) return;
  button.setAttribute("aria-disabled", "true");
  try {
    const how = { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: "{}", signal: AbortSignal.timeout(15000) };
    const answer = await fetch(post, how);
    if (answer.status === 422) tell("The configuration was refused; the old one goes on. The reasons stand above.");
    else if (answer.status === 202) tell(becomes(done, await answer.json()));
    else tell(answer.ok ? done : `Refused: ${(await answer.text()).trim()}`);
  } catch {
    tell("cupbearer did not answer.");
  }
  button.removeAttribute("aria-disabled");
  soon(200);
});
document.addEventListener("visibilitychange", () => soon(100));

document.documentElement.classList.add("live");
rates(live);
document.title = live.querySelector("[data-title]")?.dataset.title ?? "cupbearer";
soon(EVERY);
