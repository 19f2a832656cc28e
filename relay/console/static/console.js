// What every page may need: rows that open, texts that can be copied, and a part of the page that stays up to date.
// Without scripts all of it is still there to be read, save what is live.

for (const button of document.querySelectorAll(".twisty")) {
  button.addEventListener("click", () => {
    const isOpen = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!isOpen));
    document.getElementById(button.getAttribute("aria-controls")).hidden = isOpen;
  });
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});

// Browsers give pages the clipboard on https and on the machine itself.
function offerCopies(within) {
  if (navigator.clipboard) for (const button of within.querySelectorAll("[data-copy]")) button.hidden = false;
}
offerCopies(document);

// Jobs: the server sends the part anew when it has changed. It escapes what is in it; a form keeps its focus.
const live = document.querySelector("#live[data-live]");
if (live) {
  const part = document.getElementById("jobs");
  const source = new EventSource(live.dataset.live);
  source.addEventListener("jobs", (event) => {
    const focused = document.activeElement?.id;
    const parsed = new DOMParser().parseFromString(JSON.parse(event.data), "text/html");
    part.replaceChildren(...parsed.body.childNodes);
    offerCopies(part);
    if (focused) document.getElementById(focused)?.focus();
    say("live", true);
  });
  source.addEventListener("trouble", (event) => say(JSON.parse(event.data), false));
  source.addEventListener("open", () => say("live", true));
  source.addEventListener("error", () => {
    say(source.readyState === EventSource.CLOSED ? "not live any more; reload the page" : "reconnecting", false);
  });

  function say(words, isOn) {
    if (live.textContent !== words) live.textContent = words;
    live.classList.toggle("on", isOn);
  }
}
