package report

import (
	"fmt"
	"image/color"
	"slices"
	"strings"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/limpet-project/limpet/lab/experiment"
)

func armColour(a experiment.Arm) color.RGBA { return color.RGBA{1, 3, uint8(armSeries(a)), 255} }

// drawSpread draws the cells with fresh sockets, and those with reused ones.
func (v *measuredView) drawSpread() error {
	for _, part := range []struct {
		reuse   bool
		caption string
	}{{false, "A fresh socket for every query."}, {true, "One socket for each client, reused."}} {
		var cells []experiment.CellResult
		for _, c := range v.Cells {
			if c.Reuse == part.reuse && c.Valid() {
				cells = append(cells, c)
			}
		}
		if len(cells) == 0 {
			continue
		}
		plot, err := v.spreadPlot(cells)
		if err != nil {
			return fmt.Errorf("drawing the spread: %w", err)
		}
		plot.Caption = part.caption
		v.SpreadPlots = append(v.SpreadPlots, plot)
	}
	return nil
}

// spreadPlot draws a dot for each cell before the bar where theory has it, by shape, the arms side by side.
func (v *measuredView) spreadPlot(cells []experiment.CellResult) (captioned, error) {
	out := newPlot("clients", "coefficient of variation")
	out.Y.Min = 0
	var shapes []experiment.Shape
	var names []string
	for _, c := range cells {
		if !slices.Contains(shapes, c.Shape) {
			shapes = append(shapes, c.Shape)
			names = append(names, fmt.Sprintf("%d %s", c.Clients, c.Weights))
		}
	}
	var intervals bars
	dots := make([]plotter.XYs, len(v.Arms))
	for _, c := range cells {
		arm := slices.Index(v.Arms, c.Arm)
		x := float64(slices.Index(shapes, c.Shape)) + 0.8*(float64(arm)+0.5)/float64(len(v.Arms)) - 0.4
		dots[arm] = append(dots[arm], plotter.XY{X: x, Y: c.Variation.Mean})
		if t := c.Variation.Theory; t != nil {
			intervals.XYs = append(intervals.XYs, plotter.XY{X: x, Y: t.Value})
			intervals.YErrors = append(intervals.YErrors, struct{ Low, High float64 }{t.Value - t.Low, t.High - t.Value})
		}
	}
	wide, err := plotter.NewYErrorBars(intervals)
	if err != nil {
		return captioned{}, err
	}
	wide.LineStyle = draw.LineStyle{Color: faint, Width: vg.Points(5)}
	wide.CapWidth = 0
	out.Add(wide)
	for i, points := range dots {
		if len(points) == 0 {
			continue
		}
		marks, err := plotter.NewScatter(points)
		if err != nil {
			return captioned{}, err
		}
		marks.GlyphStyle = draw.GlyphStyle{Color: armColour(v.Arms[i]), Radius: vg.Points(2.4), Shape: draw.CircleGlyph{}}
		out.Add(marks)
	}
	out.NominalX(names...)
	out.X.Min, out.X.Max = -0.5, float64(len(names))-0.5
	plot, err := render(out, "Measured coefficients of variation and their intervals by theory")
	return captioned{Plot: plot}, err
}

// drawCliff draws how many clients move, by their number.
func (v *measuredView) drawCliff() error {
	if len(v.Cliff) == 0 {
		return nil
	}
	out := newPlot("clients of the node", "share of clients that moved")
	out.Y.Min, out.Y.Max = 0, 1
	for i, arm := range v.Arms {
		var points, theory plotter.XYs
		for _, c := range v.Cliff {
			if c.Arm != arm {
				continue
			}
			points = append(points, plotter.XY{X: float64(c.Clients), Y: c.Moved.Mean})
			if arm.Mode == experiment.IPTables && c.Moved.Theory != nil {
				theory = append(theory, plotter.XY{X: float64(c.Clients), Y: c.Moved.Theory.Value})
			}
		}
		if len(points) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return fmt.Errorf("drawing the cliff: %w", err)
		}
		line.LineStyle = draw.LineStyle{Color: armColour(arm), Width: vg.Points(1.4)}
		dots.GlyphStyle = draw.GlyphStyle{Color: armColour(arm), Radius: vg.Points(max(1.5, 5.5-float64(i))), Shape: draw.CircleGlyph{}}
		out.Add(line, dots) // of arms that are alike all are to be seen
		if len(theory) == 0 {
			continue
		}
		dashed, err := plotter.NewLine(theory)
		if err != nil {
			return fmt.Errorf("drawing the cliff: %w", err)
		}
		dashed.LineStyle = draw.LineStyle{Color: ink, Width: vg.Points(0.8), Dashes: []vg.Length{vg.Points(4), vg.Points(3)}}
		out.Add(dashed)
	}
	full, err := plotter.NewLine(plotter.XYs{{X: listsHold, Y: 0}, {X: listsHold, Y: 1}})
	if err != nil {
		return fmt.Errorf("drawing the cliff: %w", err)
	}
	full.LineStyle = draw.LineStyle{Color: ink, Width: vg.Points(1), Dashes: []vg.Length{vg.Points(1.5), vg.Points(3)}}
	out.Add(full)
	v.CliffPlot, err = render(out, "Clients that moved, by the number of clients")
	return err
}

// listsHold is how many addresses the lists of three endpoints hold.
const listsHold = 300

// drawFaults draws what a silent endpoint does to queries and to clients.
func (v *measuredView) drawFaults() error {
	var trials []experiment.TrialResult
	for _, t := range v.Trials {
		if t.Fault == experiment.BlackHole {
			trials = append(trials, t)
		}
	}
	if len(trials) == 0 {
		return nil
	}
	for i, caption := range []string{"Queries that failed.", "Clients without any answer."} {
		plot, err := faultPlot(trials, i)
		if err != nil {
			return fmt.Errorf("drawing the faults: %w", err)
		}
		plot.Caption = caption
		v.FaultPlots = append(v.FaultPlots, plot)
	}
	return nil
}

// faultPlot draws a bar for one figure of each trial.
func faultPlot(trials []experiment.TrialResult, figure int) (captioned, error) {
	name := trials[0].Figures[figure].Name
	out := newPlot("", "share of "+name)
	var names []string
	var intervals bars
	var theories plotter.XYs
	for i, t := range trials {
		f, x := t.Figures[figure], float64(i)
		bar, err := plotter.NewBarChart(plotter.Values{f.Mean}, vg.Points(34))
		if err != nil {
			return captioned{}, err
		}
		bar.XMin, bar.Color, bar.LineStyle.Width = x, armColour(t.Arm), 0
		out.Add(bar)
		names = append(names, strings.Replace(t.Arm.String(), ", ", "\n", 1))
		if f.Low != nil {
			intervals.XYs = append(intervals.XYs, plotter.XY{X: x, Y: f.Mean})
			intervals.YErrors = append(intervals.YErrors, struct{ Low, High float64 }{f.Mean - max(0, *f.Low), *f.High - f.Mean})
		}
		if f.Theory != nil && !f.Theory.AtMost {
			theories = append(theories, plotter.XY{X: x, Y: f.Theory.Value})
		}
	}
	out.NominalX(names...)
	if err := addMarks(out, intervals, theories); err != nil {
		return captioned{}, err
	}
	out.X.Min, out.X.Max, out.Y.Min, out.Y.Max = -0.6, float64(len(names))-0.4, 0, max(0.5, out.Y.Max)
	plot, err := render(out, "Share of "+name+", by arm")
	return captioned{Plot: plot}, err
}
