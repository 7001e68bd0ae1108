"""The report's style sheet and page frame. No script, no font file,
nothing fetched: the page's own policy forbids it."""

CSS = """
:root { --paper:#fff; --ink:#1b2733; --soft:#3a4754; --was:#626f7c; --muted:#5c6975; --line:#e4e8ec;
  --tint:#f6f8f9; --track:#eef1f3; --good:#e3f3e9; --bad:#fbe9e1; --after:#0b7285; --before:#b3bdc7;
  --gold:#1fa454; --predicted:#f5820b; --right:#1c7c45; --wrong:#b3401a; color-scheme: light; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin:0; background:var(--paper); color:var(--ink);
  font:16px/1.55 'Inter','Helvetica Neue',Helvetica,Arial,sans-serif;
  font-variant-numeric: tabular-nums; }
main, header, nav, footer { max-width:1080px; margin:0 auto; padding:0 28px; }
header { padding-top:56px; }
h1, h2, h3 { font-family:'Source Serif 4','Charter','Georgia',serif; font-weight:600;
  line-height:1.2;
  text-wrap:balance; }
h1 { font-size:40px; letter-spacing:-.015em; margin:6px 0 14px; }
h2 { scroll-margin-top:60px; font-size:27px; letter-spacing:-.01em; margin:0 0 6px; }
h3 { font-size:17px; margin:26px 0 8px; }
p { margin:0 0 12px; max-width:72ch; }
a { color:var(--after); }
section { padding:44px 0 8px; border-top:1px solid var(--line); margin-top:36px; }
.kicker { color:var(--muted); font-size:13px; letter-spacing:.08em; text-transform:uppercase; }
.lead { font-size:19px; color:var(--soft); max-width:66ch; }
.note, figcaption { color:var(--muted); font-size:14px; }
nav { position:sticky; top:0; background:var(--paper); z-index:5; margin-top:22px;
  padding-top:10px;
  padding-bottom:10px; font-size:14px; display:flex; flex-wrap:wrap; gap:4px 20px;
  border-bottom:1px solid var(--line); }
nav a { color:var(--muted); text-decoration:none; } nav a:hover { color:var(--after); }
nav .page { color:var(--after); font-weight:600; }
.hero { display:grid; grid-template-columns:1.15fr 1fr; gap:18px 56px; align-items:center;
  margin:30px 0 10px; }
.big { font-family:'Source Serif 4','Charter','Georgia',serif; font-size:68px; line-height:1;
  letter-spacing:-.03em; white-space:nowrap; }
.big .from { color:var(--was); } .big .arrow { color:var(--before); padding:0 .12em;
  font-weight:300; }
  .big .to { color:var(--after); }
.stats { display:grid; grid-template-columns:repeat(4,1fr); border-top:1px solid var(--line);
  margin-top:26px; }
.stat { padding:16px 16px 6px 0; }
.stat b { display:block; font-size:23px; font-weight:600; letter-spacing:-.01em; }
.stat b i { font-style:normal; font-weight:400; color:var(--was); }
.stat span { color:var(--muted); font-size:13.5px; }
.grid2 { display:grid; grid-template-columns:1fr 1fr; gap:30px 44px; margin:20px 0; }
figure { margin:0; min-width:0; } svg { display:block; width:100%; height:auto; }
.key { display:inline-block; width:12px; height:12px; border-radius:2px; margin:0 5px 0 0;
  vertical-align:-1px; }
.keys { font-size:14px; color:var(--muted); } .keys span { margin-right:18px; white-space:nowrap; }
.small { display:grid; grid-template-columns:repeat(auto-fill,minmax(185px,1fr)); gap:20px 22px;
  margin:16px 0; } .small svg { max-width:300px; }
.domain { display:grid; grid-template-columns:1fr 1fr 1fr 2.15fr; gap:14px 22px;
  margin:6px 0 20px; }
@media (max-width:860px) { .domain { grid-template-columns:1fr 1fr; } }
.tiles { display:flex; flex-wrap:wrap; gap:18px 56px; align-items:flex-start; }
main > section:first-child { border-top:0; margin-top:0; }
.scroll { overflow-x:auto; } .scroll td { overflow-wrap:break-word; }
table { border-collapse:collapse; font-size:14px; width:100%; margin:12px 0 18px; }
th { text-align:left; font-weight:600; color:var(--muted); border-bottom:1.5px solid var(--ink);
  padding:6px 14px 6px 0; white-space:nowrap; }
td { border-bottom:1px solid var(--line); padding:6px 14px 6px 0; vertical-align:top;
  overflow-wrap:anywhere; }
td:first-child { min-width:9em; }
th.n, td.n { text-align:right; white-space:nowrap; } tr.sum td { font-weight:600;
  border-bottom:1.5px solid var(--line); }
td .was { color:var(--was); }
.ok { color:var(--right); font-weight:600; } .no { color:var(--wrong); font-weight:600; }
.case { display:grid; grid-template-columns:minmax(0,5fr) minmax(0,6fr); gap:30px; padding:26px 0;
  border-top:1px solid var(--line); }
.case.wide { grid-template-columns:1fr; gap:16px; }
.case figure svg { border-radius:4px; } .case.wide .picture { max-width:420px; margin-bottom:12px; }
.case.wide .body { display:grid; grid-template-columns:1fr 1fr; gap:8px 36px; }
.case h3 { margin:0 0 2px; font-size:18px; }
.chip { display:inline-block; font:600 12.5px/1 'Inter','Helvetica Neue',Helvetica,Arial,sans-serif;
  padding:4px 9px; border-radius:20px;
  margin-left:8px; vertical-align:2px; } .chip.ok { background:var(--good); } .chip.no {
  background:var(--bad); }
.answers { display:grid; grid-template-columns:auto 1fr; gap:2px 16px; margin:10px 0;
  font-size:15px; }
.answers dt { color:var(--muted); } .answers dd { margin:0; overflow-wrap:anywhere; }
blockquote { margin:10px 0; padding:2px 0 2px 16px; border-left:3px solid var(--line);
  font:italic 16px/1.5 'Source Serif 4','Charter','Georgia',serif;
  color:var(--soft); overflow-wrap:anywhere; white-space:pre-line; }
.parts { display:grid; grid-template-columns:max-content 1fr 44px; gap:5px 12px; align-items:center;
  font-size:13px; margin:10px 0; max-width:400px; }
.parts span { color:var(--muted); } .parts em { font-style:normal; text-align:right; }
.bar { background:var(--track); height:7px; border-radius:4px; overflow:hidden; }
.bar i { display:block; height:100%; }
details { margin:8px 0; font-size:14px; } summary { cursor:pointer; color:var(--after); }
pre { white-space:pre-wrap; overflow-wrap:anywhere; background:var(--tint); padding:12px 14px;
  border-radius:6px; font:12.5px/1.5 ui-monospace,
  'SF Mono',Menlo,Consolas,monospace; max-height:420px; overflow:auto; margin:8px 0; }
footer { color:var(--muted); font-size:13px; padding-top:30px; padding-bottom:60px; }
@media (max-width:820px) { .hero, .grid2, .case, .case.wide .body { grid-template-columns:1fr; }
  .stats {
  grid-template-columns:1fr 1fr; }
  .big { font-size:52px; } h1 { font-size:31px; } }
@media (max-width:820px) { nav { flex-wrap:nowrap; overflow-x:auto; white-space:nowrap; } }
@media (max-width:520px) { main, header, nav { padding-left:18px; padding-right:18px; }
  .scroll > svg { min-width:620px; } }
@media screen and (prefers-color-scheme:dark) {
  :root { --paper:#12171c; --ink:#e6ebf0; --soft:#c3ced8; --was:#9aa7b3; --muted:#a3b0bc;
    --line:#303a44; --tint:#1b222a; --track:#27303a; --good:#143524; --bad:#3d2117; --after:#4bb3c6;
    --before:#76838f; --right:#63cd92; --wrong:#f39a78; color-scheme: dark; }
  /* Charts are drawn in the light colours of charts.py; what is drawn on is as it was. */
  svg [fill="#1b2733"] { fill:var(--ink); } svg [stroke="#1b2733"] { stroke:var(--ink); }
  svg [fill="#5c6975"] { fill:var(--muted); } svg [stroke="#5c6975"] { stroke:var(--muted); }
  svg [stroke="#e4e8ec"] { stroke:var(--line); } svg [fill="#f4f6f8"] { fill:var(--tint); }
  svg [fill="#b3bdc7"] { fill:var(--before); } svg [stroke="#b3bdc7"] { stroke:var(--before); }
  svg [fill="#0b7285"]:not(rect[fill-opacity]) { fill:var(--after); }
  svg [stroke="#0b7285"] { stroke:var(--after); }
  svg [fill="#2563a8"]:not(rect) { fill:#7fb0ea; } svg [stroke="#2563a8"] { stroke:#7fb0ea; }
  svg [fill="#8452a8"]:not(rect) { fill:#c39be0; } svg [stroke="#8452a8"] { stroke:#c39be0; }
  svg [fill="#a8792a"]:not(rect) { fill:#d9ab5c; } svg [stroke="#a8792a"] { stroke:#d9ab5c; }
}
@media print { nav { display:none; } .case, figure, tr { break-inside:avoid; } }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,
  initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
  style-src 'unsafe-inline'">
<title>{title}</title><style>{css}</style></head>
<body>{body}</body></html>
"""
