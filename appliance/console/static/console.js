// What was opened by hand stays open when a part of the page is renewed; a lost session leads to the door.
(() => {
  "use strict";
  let open = [];
  document.addEventListener("htmx:beforeSwap", (event) => {
    open = [...event.detail.target.querySelectorAll("details[open][id]")].map((one) => one.id);
    // a sentence that says what is wrong is shown as well
    if (event.detail.xhr.status >= 400 && event.detail.target.id === "identifiers") {
      const said = new DOMParser().parseFromString(event.detail.serverResponse, "text/html").querySelector("[role=alert]");
      event.detail.serverResponse = said ? said.outerHTML : "";
      event.detail.shouldSwap = Boolean(said);
    }
  });
  // a screen reader is told of the verdict when it changes, not whenever the page is renewed
  const say = () => {
    const said = document.getElementById("said");
    const verdict = document.getElementById("verdict")?.textContent.trim();
    if (said && verdict && said.textContent !== verdict) {
      said.textContent = verdict;
    }
  };
  document.addEventListener("DOMContentLoaded", say);
  document.addEventListener("htmx:afterSwap", () => {
    say();
    for (const id of open) {
      document.getElementById(id)?.setAttribute("open", "");
    }
  });
})();
