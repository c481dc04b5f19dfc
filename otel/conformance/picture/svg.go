package main

import (
	"bytes"
	"fmt"
	"html"
)

// style has colours for light and dark pages. c0 to c4 are those of programs and lines.
const style = `text{font:12px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#1f2328}
.title{font-weight:600}.note{fill:#59636e}.error{fill:#cf222e}.ground{fill:#fff;stroke:#d1d9e0}.grid{stroke:#59636e;stroke-opacity:.25}
.band{fill:#59636e;fill-opacity:.07}.line{fill:none;stroke-width:1.5;stroke-linejoin:round}
.c0{fill:#8c959f}.c1{fill:#2f6fb5}.c2{fill:#d4570a}.c3{fill:#1a7f37}.c4{fill:#8250df}
.l0{stroke:#2f6fb5}.l1{stroke:#d4570a}.l2{stroke:#1a7f37}.l3{stroke:#8250df}.l4{stroke:#cf222e}
.t0{fill:#2f6fb5}.t1{fill:#b54708}.t2{fill:#1a7f37}.t3{fill:#8250df}.t4{fill:#cf222e}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.note{fill:#9198a1}.error{fill:#ff7b72}.ground{fill:#0d1117;stroke:#3d444d}.grid{stroke:#9198a1}
.band{fill:#9198a1}.c1{fill:#6cb0f5}.c2{fill:#f0883e}.c3{fill:#3fb950}.c4{fill:#ab7df8}.l0{stroke:#6cb0f5}.l1{stroke:#f0883e}.l2{stroke:#3fb950}
.l3{stroke:#ab7df8}.l4{stroke:#ff7b72}.t0{fill:#6cb0f5}.t1{fill:#f0883e}.t2{fill:#3fb950}.t3{fill:#ab7df8}.t4{fill:#ff7b72}}`

// openPicture writes the beginning of an SVG document.
func openPicture(w *bytes.Buffer, width, height int, label string) {
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		width, height, width, height, html.EscapeString(label))
	fmt.Fprintf(w, "<style>%s</style>\n", style)
	fmt.Fprintf(w, `<rect class="ground" x="0.5" y="0.5" width="%d" height="%d" rx="8"/>`+"\n", width-1, height-1)
}
