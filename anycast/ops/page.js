// Keeps the page as the agent would serve it now: an event, or a few seconds, and it is fetched again; what differs is
// put in its place, so that what is open, focused or marked stays so. Without this the page is the same, only older.
"use strict";
const POLL = 5, HIDDEN = 30, APART = 1, PATIENCE = 8, STREAM_RETRY = 30; // seconds
const live = document.getElementById("live"), word = document.createElement("span"), age = document.createElement("span");
age.setAttribute("aria-hidden", "true"); // it would be read out every second
live.replaceChildren(word, age);
let got = performance.now(), lost = null, timer = 0, busy = false, again = false, stream = null, title = document.title;

function words(s) {
  s = Math.max(0, Math.floor(s));
  return s < 90 ? s + " s" : s < 5400 ? Math.round(s / 60) + " min" : s < 172800 ? Math.round(s / 3600) + " h"
    : Math.round(s / 86400) + " d";
}

function tell(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function tick() {
  const passed = (performance.now() - got) / 1000;
  for (const one of document.querySelectorAll("[data-s]")) tell(one, words(Number(one.dataset.s) + passed));
  for (const one of document.querySelectorAll("[data-left]")) tell(one, words(Number(one.dataset.left) - passed));
  live.className = lost === null ? "ok" : "lost";
  document.body.className = live.className;
  tell(word, lost === null ? "Live" : "Lost the agent: " + lost + ". What is shown is old; trying again");
  tell(age, (lost === null && passed < 2 ? "" : ", " + words(passed) + " old"));
  const now = lost === null ? title : "LOST " + title;
  if (document.title !== now) document.title = now;
}

function same(a, b) {
  return a !== null && a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "");
}

function become(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  // The reader opens and closes as he likes, until the agent thinks otherwise.
  const folds = old.nodeName === "DETAILS", turned = folds && old.dataset.open !== fresh.dataset.open;
  for (const one of [...old.attributes])
    if (!fresh.hasAttribute(one.name) && !(folds && one.name === "open")) old.removeAttribute(one.name);
  for (const one of fresh.attributes)
    if (old.getAttribute(one.name) !== one.value && !(folds && one.name === "open")) old.setAttribute(one.name, one.value);
  if (turned) old.open = fresh.open;
  let at = old.firstChild;
  for (const one of [...fresh.childNodes]) {
    let found = same(at, one) ? at : null;
    if (one.id && found === null) found = [...old.children].find((child) => child.id === one.id) || null;
    if (found === null) {
      old.insertBefore(document.adoptNode(one), at);
      continue;
    }
    if (found === at) at = at.nextSibling;
    else old.insertBefore(found, at);
    become(found, one);
  }
  while (at !== null) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

async function refresh() {
  clearTimeout(timer);
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  again = typed = false;
  const began = performance.now();
  try {
    const asked = location.search, answer = await fetch(location.pathname + asked, {cache: "no-store", signal: AbortSignal.timeout(PATIENCE * 1000)});
    if (!answer.ok) throw new Error("it answers " + answer.status);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (fresh.documentElement.dataset.build !== document.documentElement.dataset.build) {
      if (fresh.documentElement.dataset.build === undefined) throw new Error("something else answers");
      location.reload(); // another version of the agent: its page is another
      return;
    }
    if (asked === location.search) become(document.querySelector("main"), fresh.querySelector("main"));
    else again = true; // the reader looks for something else by now
    become(document.querySelector("link[rel=icon]"), fresh.querySelector("link[rel=icon]"));
    title = fresh.title;
    got = began;
    lost = null;
    follow();
  } catch (error) {
    lost = error instanceof TypeError ? "it cannot be reached"
      : error.name === "TimeoutError" ? "it does not answer" : error.message;
  } finally {
    busy = false;
  }
  tick();
  soon(typed ? 0 : again ? APART : lost !== null ? 2 : document.hidden ? HIDDEN : POLL);
}

function soon(seconds) {
  clearTimeout(timer);
  timer = setTimeout(refresh, seconds * 1000);
}

let asked = 0;
function changed() {
  if (busy) again = true;
  else if (performance.now() - asked > APART * 1000) {
    asked = performance.now();
    soon(0.05); // what belongs together comes together
  } else soon(APART);
}

// What is looked for stands in the address, to be passed on, and is found as it is typed.
let typed = false, typing = 0;
function find(now) {
  clearTimeout(typing);
  const text = document.getElementById("q").value.trim(), sort = new URLSearchParams(location.search).get("sort");
  const words = new URLSearchParams({...(text && {q: text}), ...(sort && {sort})}).toString(), search = words && "?" + words;
  if (search === location.search) return;
  if (!now) {
    typing = setTimeout(find, 200, true);
    return;
  }
  history.replaceState(null, "", location.pathname + search);
  typed = true;
  refresh();
}
document.addEventListener("input", (event) => event.target.id === "q" && find(false));
document.addEventListener("submit", (event) => {
  event.preventDefault();
  find(true);
});

let refused = -Infinity;
function follow() {
  if (stream !== null || performance.now() - refused < STREAM_RETRY * 1000) return;
  // From the newest event that the page knows: nothing is missed in between.
  stream = new EventSource("events?after=" + document.querySelector("main").dataset.newest);
  stream.onmessage = changed;
  stream.onerror = () => {
    if (stream !== null && stream.readyState === EventSource.CLOSED) {
      stream = null; // refused: until it is taken, every few seconds must do
      refused = performance.now();
    }
    changed();
  };
}

document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(tick, 1000);
follow();
tick();
soon(POLL);
