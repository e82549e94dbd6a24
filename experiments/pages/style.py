"""The colors of pages and charts: for light and dark screens, and for print.

Charts use classes, no colors of their own: inside a page they follow its style, and a chart in a
file of its own carries `CHART_STYLE`.
"""

_LIGHT = {
    "paper": "#ffffff", "ink": "#1f2328", "soft": "#59636e", "line": "#d1d9e0", "band": "#f6f8fa",
    "c0": "#2f6fc0", "c1": "#c2660f", "c2": "#2d8659", "c3": "#9a4fb3", "c4": "#b8336a",
    "c5": "#5f6b76",
}  # fmt: skip
_DARK = {
    "paper": "#0d1117", "ink": "#e6edf3", "soft": "#9198a1", "line": "#30363d", "band": "#161b22",
    "c0": "#6ea8fe", "c1": "#f0a04b", "c2": "#5fc894", "c3": "#cf96e8", "c4": "#f47fb0",
    "c5": "#a5b0bb",
}  # fmt: skip
N_COLORS = 6  # series are c0 .. c5, then again from c0

_FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Helvetica, Arial, sans-serif'


def _chart_rules(colors: dict[str, str]) -> str:
    rules = [
        f".chart text {{ fill: {colors['ink']}; }}",
        f".chart .soft {{ fill: {colors['soft']}; }}",
        f".chart .paper {{ fill: {colors['paper']}; }}",
        f".chart .grid {{ stroke: {colors['line']}; }}",
        f".chart .mark {{ stroke: {colors['soft']}; }}",
        f".chart .empty {{ fill: {colors['band']}; stroke: {colors['line']}; }}",
    ]
    for n in range(N_COLORS):
        color = colors[f"c{n}"]
        rules.append(f".chart .f{n} {{ fill: {color}; }} .chart .s{n} {{ stroke: {color}; }}")
    return "\n".join(rules)


CHART_STYLE = f"""
.chart text {{ font-family: {_FONT}; font-size: 12px; }}
.chart .title {{ font-size: 14px; font-weight: 600; }}
.chart .end {{ text-anchor: end; }}
.chart .middle {{ text-anchor: middle; }}
.chart .grid {{ stroke-width: 1; }}
.chart .mark {{ stroke-width: 1.5; stroke-dasharray: 5 4; }}
.chart .curve {{ fill: none; stroke-width: 2; stroke-linejoin: round; }}
.chart .dashed {{ stroke-dasharray: 2 4; }}
.chart .area {{ opacity: 0.18; stroke: none; }}
.chart .whisker {{ stroke: currentColor; stroke-width: 1.5; }}
{_chart_rules(_LIGHT)}
"""
_DARK_CHART = f"@media screen and (prefers-color-scheme: dark) {{\n{_chart_rules(_DARK)}\n}}\n"

FILE_STYLE = CHART_STYLE + _DARK_CHART  # of an SVG file


def _variables(colors: dict[str, str]) -> str:
    return " ".join(f"--{name}: {color};" for name, color in colors.items())


PAGE_STYLE = f"""
:root {{ color-scheme: light dark; {_variables(_LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(_DARK)} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 {_FONT}; }}
main {{ max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; }}
h2 {{ font-size: 1.3rem; margin: 3rem 0 0.5rem; padding-top: 0.5rem;
      border-top: 1px solid var(--line); }}
p, li {{ max-width: 44rem; }}
a {{ color: var(--c0); }}
nav ul {{ columns: 2; padding-left: 1.2rem; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
           gap: 1rem; }}
figure {{ margin: 0.5rem 0; max-width: 34rem; break-inside: avoid; }}
figure.wide {{ max-width: none; grid-column: 1 / -1; }}
svg {{ width: 100%; height: auto; }}
figcaption, .soft {{ color: var(--soft); font-size: 0.9rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 0.75rem 0; font-variant-numeric: tabular-nums;
         font-size: 0.92rem; }}
th, td {{ padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right;
          white-space: nowrap; }}
th[scope=row], th:first-child {{ text-align: left; }}
pre {{ background: var(--band); padding: 0.75rem; overflow-x: auto; font-size: 0.85rem;
       white-space: pre-wrap; overflow-wrap: anywhere; }}
details > summary {{ cursor: pointer; }}
@media (max-width: 40rem) {{ nav ul {{ columns: 1; }} th, td {{ padding: 0.3rem 0.45rem; }} }}
@media print {{ h2 {{ break-after: avoid; }} nav {{ display: none; }} main {{ max-width: none; }}
                .scroll {{ overflow: visible; }} }}
{CHART_STYLE}
{_DARK_CHART}
"""
