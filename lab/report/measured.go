package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"

	"github.com/limpet-project/limpet/lab/experiment"
)

//go:embed measured.html
var measuredText string

var measuredPage = template.Must(template.New("measured").Funcs(template.FuncMap{
	"number": number, "theory": anyTheory, "byTheory": anyInterval, "ratio": ratio, "mark": mark,
	"series":   armSeries,
	"validity": func(c experiment.CellResult) string { return validity(&c) },
	"whole":    func(v float64) string { return fmt.Sprintf("%.0f", v) },
}).Parse(styleText + measuredText))

// anyTheory is theory for figures that may be missing.
func anyTheory(f any) string { return theory(figureOf(f)) }

func anyInterval(f any) string { return byTheory(figureOf(f)) }

func figureOf(f any) experiment.Figure {
	if p, ok := f.(*experiment.Figure); ok {
		return *p
	}
	return f.(experiment.Figure)
}

// A captioned plot.
type captioned struct {
	Plot    template.HTML
	Caption string
}

// A measuredView is what the page shows.
type measuredView struct {
	*experiment.Result
	Arms                    []experiment.Arm
	SpreadPlots, FaultPlots []captioned
	CliffPlot               template.HTML
}

// WriteMeasured writes what an experiment showed as one HTML page.
func WriteMeasured(w io.Writer, r *experiment.Result) error {
	v := measuredView{Result: r, Arms: armsOf(r)}
	for _, draw := range []func(*measuredView) error{(*measuredView).drawSpread, (*measuredView).drawCliff, (*measuredView).drawFaults} {
		if err := draw(&v); err != nil {
			return err
		}
	}
	if err := measuredPage.Execute(w, v); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// armsOf returns the arms that were compared, in the order in which they were.
func armsOf(r *experiment.Result) []experiment.Arm {
	var list []experiment.Arm
	add := func(a experiment.Arm) {
		if !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	for _, c := range slices.Concat(r.Cells, r.Cliff, r.DNSPerf) {
		add(c.Arm)
	}
	for _, t := range r.Trials {
		add(t.Arm)
	}
	slices.SortFunc(list, func(a, b experiment.Arm) int { return armSeries(a) - armSeries(b) })
	return list
}

// armSeries returns the number of an arm's colour among those of the page: the same as on the page of a prediction.
func armSeries(a experiment.Arm) int {
	switch {
	case a.Mode == experiment.Limpet:
		return 5
	case a.Mode == experiment.NFTables && a.Affinity:
		return 4
	case a.Mode == experiment.NFTables:
		return 1
	case a.Affinity:
		return 2
	}
	return 0
}
