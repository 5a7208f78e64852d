"""The look of a report: one style sheet, nothing from elsewhere."""

# Light and dark, as the reader has it.
PALETTE = """
:root{color-scheme:light dark;--paper:#f6f7f6;--card:#fff;--ink:#1c2421;--soft:#5c6863;
--line:#dfe4e1;--pool:#aab6b1;--taken:#0b7a6b;--cut:#c2410c;--wash:#e3f2ef;--warn:#fdeee4;
--s0:#0072b2;--s1:#d55e00;--s2:#009e73;--s3:#cc79a7;--s4:#e69f00;--s5:#56b4e9;--s6:#8a5a2b;
--s7:#7d8883}
@media(prefers-color-scheme:dark){:root{--paper:#121615;--card:#1a201e;--ink:#e6ebe9;--soft:#9aa8a2;
--line:#2c3532;--pool:#56635e;--taken:#3ecab4;--cut:#fb923c;--wash:#173a34;--warn:#3d2a1c}}
"""
# Of plots, on the page and in images of their own.
MARKS = """
svg text{fill:var(--soft);font:12px system-ui,sans-serif}
.pool{fill:var(--pool)}.taken{fill:var(--taken)}.axis{stroke:var(--line)}
.whisker{stroke-width:2}.whisker.pool{stroke:var(--pool)}.whisker.taken{stroke:var(--taken)}
.cut{stroke:var(--cut);stroke-dasharray:4 3}svg text.cutword{fill:var(--cut);stroke:none}
.dots{fill:none;stroke-linecap:round}.dots.p{stroke:var(--pool)}.dots.t{stroke:var(--taken)}
.faint{opacity:.5}.dots.ring{stroke:var(--ink)}
.s0{stroke:var(--s0);background:var(--s0)}.s1{stroke:var(--s1);background:var(--s1)}
.s2{stroke:var(--s2);background:var(--s2)}.s3{stroke:var(--s3);background:var(--s3)}
.s4{stroke:var(--s4);background:var(--s4)}.s5{stroke:var(--s5);background:var(--s5)}
.s6{stroke:var(--s6);background:var(--s6)}.s7{stroke:var(--s7);background:var(--s7)}
svg text.name{fill:var(--ink);font-weight:600}svg text.figure{font-variant-numeric:tabular-nums}
svg text.name,svg text.figure,svg text.label{paint-order:stroke;stroke:var(--card);stroke-width:3px}
.sure{fill:var(--taken)}.unsure{fill:var(--card);stroke:var(--taken);stroke-width:1.6}
.control{fill:var(--soft)}.whisker.sure,.whisker.unsure{stroke:var(--taken);stroke-width:2}
.whisker.control{stroke:var(--soft)}.whisker.thin{stroke-width:1}
.curve,.front,.mean{fill:none;stroke:var(--taken);stroke-width:1.6}.front{opacity:.55}
.mean{stroke:var(--soft);stroke-dasharray:4 3}.band{fill:var(--pool);opacity:.45}
"""
_LAYOUT = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,
"Segoe UI",Roboto,sans-serif;-webkit-text-size-adjust:100%}
main,header>div,nav>div{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding:36px 0 20px}
header p{margin:.2em 0;color:var(--soft)}
h1{font-size:1.9rem;line-height:1.2;margin:0;letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 .3em;letter-spacing:-.01em}
h3{font-size:.95rem;margin:1.2em 0 .3em}
nav{position:sticky;top:0;z-index:1;background:var(--paper);border-bottom:1px solid var(--line)}
nav>div{display:flex;gap:18px;overflow-x:auto;white-space:nowrap;padding:10px 20px;font-size:.88rem}
nav a{color:var(--soft);text-decoration:none}nav a:hover{color:var(--taken)}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px;
margin:18px 0;scroll-margin-top:56px}
.note{color:var(--soft);margin:.2em 0 1em;max-width:72ch}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:18px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px}
.tile b{display:block;font-size:1.6rem;line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.86rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:22px;
align-items:start}
figure{margin:0;min-width:0}figcaption{font-size:.9rem;font-weight:600;margin-bottom:6px;
overflow-wrap:anywhere}
svg{display:block;width:100%;max-width:480px;height:auto}
.key{display:flex;gap:2px 14px;font-size:.82rem;color:var(--soft);flex-wrap:wrap;margin:4px 0}
.key i{display:inline-block;width:.75em;height:.75em;border-radius:3px;margin-right:.4em}
.key span{overflow-wrap:anywhere;min-width:0}
.key .ring{border:2px solid var(--ink);border-radius:50%}.key .faint{background:var(--soft)}
.key .p{background:var(--pool)}.key .t{background:var(--taken)}.key .c{background:var(--cut)}
.scroll{overflow-x:auto;margin:.6em 0}
table{border-collapse:collapse;font-size:.86rem;min-width:100%}
th,td{text-align:left;padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td{overflow-wrap:break-word;max-width:32em}
td:first-child{min-width:8em}
.heat td,.heat th{text-align:center;padding:7px 3px;min-width:2.7em;font-size:.82rem;
font-variant-numeric:tabular-nums}.heat td{white-space:nowrap}
.heat th:first-child{position:sticky;left:0;background:var(--card);text-align:left;
white-space:normal;overflow-wrap:anywhere;width:12em;min-width:7em;max-width:12em;padding-left:0}
.grid th[scope=row]{position:sticky;left:0;background:var(--card);color:var(--ink);font-weight:600;
white-space:normal;overflow-wrap:anywhere;min-width:9.5em;max-width:15em}
.grid td{font-variant-numeric:tabular-nums;white-space:nowrap}.grid td.wrap{white-space:normal;
min-width:11em}.grid .said{font-weight:400;white-space:normal;color:var(--soft)}
.better{background:var(--wash)}.worse{background:var(--warn)}.better,.worse{border-radius:4px;
padding:0 5px;margin-left:-5px}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(148px,1fr));gap:14px 10px}
svg.sample{display:inline-block;width:.8em;height:.8em;margin-right:.4em;vertical-align:-.05em}
details{margin:.5em 0}summary h3{display:inline-block;margin:.6em 0 .3em}
summary{cursor:pointer;color:var(--soft);font-size:.86rem}
.rows{display:grid;align-items:start;gap:14px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr))}
.row{border:1px solid var(--line);border-radius:10px;padding:12px 14px;min-width:0}
.row.in{border-left:4px solid var(--taken)}.row.out{border-left:4px solid var(--pool)}
.row header{padding:0;display:flex;flex-wrap:wrap;gap:4px 10px;font-size:.8rem;color:var(--soft)}
.row header b{color:var(--ink)}
.turn{margin-top:8px;font-size:.88rem;white-space:pre-wrap;overflow-wrap:anywhere}
.turn b{display:block;font-size:.72rem;letter-spacing:.04em;color:var(--soft)}
.render{font:12.5px/1.7 ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;
overflow-wrap:anywhere;border:1px solid var(--line);border-radius:10px;padding:12px;margin:8px 0}
.render span{color:var(--soft)}
.render mark{background:var(--wash);color:var(--ink);border-radius:3px;
box-shadow:0 1px 0 var(--taken)}
.alarm{background:var(--warn);border-radius:8px;padding:8px 12px;margin:.6em 0}
code{font:.85em ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
footer{color:var(--soft);font-size:.84rem;padding:10px 0 40px}
@media(max-width:480px){main,header>div{padding:0 12px}section{padding:16px 14px}
h1{font-size:1.5rem}.tiles{grid-template-columns:1fr 1fr}th,th.n{white-space:normal}
td{overflow-wrap:anywhere;min-width:5.6em}td:first-child{min-width:6em}td.n,.heat td{min-width:0}}
@media print{nav{display:none}section{break-inside:avoid}}
"""
STYLE = PALETTE + MARKS + _LAYOUT
