"""The style sheet of ``report.html``."""

from __future__ import annotations

# Line colours after Okabe and Ito, told apart by colour-blind people; lighter ones in the dark. Dashes help in print.
STYLE = """
:root { --ink: #1a1f24; --soft: #57606a; --page: #ffffff; --panel: #f5f7f9; --rule: #d5dbe1; --link: #0a58a8;
  --warn-ink: #4a3500; --warn: #fff3cd; --warn-rule: #d9a400; --good: #1a6b3a; --bad: #a4262c;
  --s0: #0072b2; --s1: #d55e00; --s2: #008060; --s3: #b0508c; --s4: #8a6d00; --s5: #3b4cc0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #a4adb6; --page: #14181c; --panel: #1d2329; --rule: #3a434c; --link: #7cbcff;
    --warn-ink: #ffe9a8; --warn: #3a2f0b; --warn-rule: #b38a00; --good: #6fd195; --bad: #ff8f8f;
    --s0: #56b4e9; --s1: #ff9248; --s2: #3fd0a4; --s3: #e79bc8; --s4: #e0c23c; --s5: #a0abff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; color: var(--ink); background: var(--page);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0.5rem 0 0; font-size: 1.6rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 0.5rem; font-size: 1.2rem; border-bottom: 1px solid var(--rule); }
h3 { margin: 1.25rem 0 0; font-size: 1rem; }
p { margin: 0.5rem 0; }
a { color: var(--link); }
.run { color: var(--soft); overflow-wrap: anywhere; }
.status { display: inline-block; padding: 0 0.5rem; border: 1px solid currentColor; border-radius: 1rem;
  font-size: 0.875rem; white-space: nowrap; }
.status.done { color: var(--good); }
.status.failed { color: var(--bad); }
.message { white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.5rem 0.75rem; background: var(--panel); }
.banner { padding: 0.6rem 0.75rem; color: var(--warn-ink); background: var(--warn);
  border-left: 0.3rem solid var(--warn-rule); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.5rem 0; font-variant-numeric: tabular-nums; }
caption { position: relative; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
th, td { padding: 0.3rem 0.75rem 0.3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
thead th { color: var(--soft); font-size: 0.875rem; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
.number { text-align: right; white-space: nowrap; }
.primary td, .primary th { font-weight: 600; }
sup { line-height: 0; margin-left: 0.15em; }
.facts { width: 100%; table-layout: fixed; }
.facts th { width: 12rem; overflow-wrap: anywhere; color: var(--soft); }
.items { display: flex; flex-wrap: wrap; gap: 0 1.25rem; margin: 0; padding: 0; list-style: none; }
.key { color: var(--soft); }
.facts td { white-space: pre-wrap; overflow-wrap: anywhere; }
.lines { white-space: pre; overflow-x: auto; font-family: ui-monospace, "DejaVu Sans Mono", monospace;
  font-size: 0.8125rem; }
:target { outline: 2px solid var(--link); outline-offset: 0.25rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; padding: 0.75rem; background: var(--panel); border-radius: 0.4rem; }
figcaption { font-weight: 600; margin-bottom: 0.25rem; }
figure > svg { display: block; width: 100%; height: auto; max-width: 34rem; }
svg text { fill: var(--soft); font-size: 11px; font-family: inherit; }
.grid { stroke: var(--rule); stroke-width: 1; }
.tick { stroke: var(--soft); stroke-width: 1; }
.line polyline { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; }
.line circle { fill: currentColor; }
.line.faint { opacity: 0.5; }
.line.faint polyline { stroke-width: 1; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); }
.s3 { color: var(--s3); } .s4 { color: var(--s4); } .s5 { color: var(--s5); }
.s1 polyline { stroke-dasharray: 6 3; } .s2 polyline { stroke-dasharray: 2 3; }
.s3 polyline { stroke-dasharray: 8 3 2 3; } .s4 polyline { stroke-dasharray: 4 2; }
.s5 polyline { stroke-dasharray: 1 2; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; margin: 0.25rem 0 0; padding: 0; list-style: none;
  font-size: 0.875rem; }
.swatch { width: 1.5rem; height: 0.5rem; margin-right: 0.4rem; }
details { margin: 0.75rem 0; }
summary { cursor: pointer; color: var(--link); }
pre { overflow-x: auto; padding: 0.75rem; background: var(--panel); border-radius: 0.4rem; font-size: 0.875rem; }
code { font-size: 0.875rem; }
footer { margin: 2rem 0 1rem; color: var(--soft); font-size: 0.875rem; }
@media (max-width: 32rem) {
  .scroll table { font-size: 0.875rem; }
  .scroll th, .scroll td { padding-right: 0.5rem; }
  .facts, .facts tbody, .facts tr, .facts th, .facts td { display: block; width: auto; }
  .facts th { border-bottom: 0; padding-bottom: 0; }
  .facts td { border-bottom: 1px solid var(--rule); padding: 0 0 0.4rem; }
}
@media print { body { max-width: none; } details { display: none; } }
"""
