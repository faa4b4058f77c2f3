import { clearChange, connect, hasChanged, renderStatus } from "./stream.ts";
import { loadTables } from "./tables.ts";

/** How often tables are loaded while orders arrive, and while none arrive. */
const REFRESH_MS = 5_000;
const IDLE_REFRESH_MS = 30_000;

let loadedMs = Number.NEGATIVE_INFINITY;

function reload() {
  loadedMs = performance.now();
  clearChange();
  loadTables();
}

function refresh() {
  const age = performance.now() - loadedMs;
  if (document.hidden || age < REFRESH_MS || (age < IDLE_REFRESH_MS && !hasChanged())) return;
  reload();
}

connect(reload);
document.addEventListener("visibilitychange", refresh);
setInterval(() => {
  renderStatus();
  refresh();
}, 1_000);
