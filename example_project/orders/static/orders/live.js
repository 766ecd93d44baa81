// Refreshes the list of orders once a second without touching the form.
"use strict";

const list = document.getElementById("orders");
const offline = document.getElementById("offline");
let shown = "";

async function refresh() {
  if (!document.hidden) {
    try {
      const response = await fetch(list.dataset.url);
      if (!response.ok) throw new Error(response.statusText);
      const html = await response.text();
      // Unchanged content stays in place, so that selected text and links survive.
      if (html !== shown) list.innerHTML = shown = html;
      offline.hidden = true;
    } catch {
      offline.hidden = false;
    }
  }
  setTimeout(refresh, 1000);
}

refresh();
