(() => {
  "use strict";
  document.documentElement.classList.add("js");
  const all = (what) => Array.from(document.querySelectorAll(what));
  const nodes = all(".node"), marks = all(".line, .port"), panels = all(".panel");
  const role = document.getElementById("role"), outcome = document.getElementById("outcome"), weight = document.getElementById("weight");
  if (!role) return;
  const open = () => {
    const target = decodeURIComponent(location.hash.slice(1));
    const shown = panels.filter((panel) => panel.classList.toggle("open", panel.id === target));
    document.getElementById("hint").classList.toggle("gone", shown.length > 0);
    for (const mark of marks) mark.classList.toggle("lit", shown.length > 0 && ["src", "dst"].some((end) => "c-" + mark.dataset[end].split("@")[0] === target));
  };
  const filter = () => {
    document.getElementById("least").textContent = weight.value;
    const kept = new Set();
    for (const node of nodes) {
      const ends = node.dataset.role === "" && /^(input|logits)/.test(node.dataset.node);
      const fits = ends || ((!role.value || node.dataset.role === role.value) && (!outcome.value || node.dataset.outcome === outcome.value));
      node.classList.toggle("faint", !fits);
      if (fits) kept.add(node.dataset.node);
    }
    for (const mark of marks) {
      mark.classList.toggle("hidden", Number(mark.dataset.share) < Number(weight.value));
      mark.classList.toggle("faint", !kept.has(mark.dataset.src) || !kept.has(mark.dataset.dst));
    }
  };
  window.addEventListener("hashchange", open);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#c-"]');
    if (!link || event.ctrlKey || event.metaKey) return;
    event.preventDefault(); // or the page would jump and the circuit would leave the screen
    history.pushState(null, "", link.getAttribute("href"));
    open();
    document.getElementById("panels").scrollTop = 0;
    document.querySelector(".panel.open")?.focus({ preventScroll: true });
  });
  for (const input of [role, outcome, weight]) input.addEventListener("input", filter);
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  open();
  filter();
})();
