package report

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/limpet-project/limpet/lab/spread"
)

// Plots are drawn in colours that stand for variables of the page's style, so that they follow light and dark. None of these is a
// colour that a plot has by itself.
var (
	ink   = color.RGBA{1, 2, 3, 255}
	faint = color.RGBA{1, 2, 4, 255}
)

// series returns the colour of a policy: its place among all policies, so that it is the same on every plot.
func series(p spread.Policy) color.RGBA {
	return color.RGBA{1, 3, uint8(slices.Index(spread.Policies[:], p)), 255}
}

var (
	seriesColour = regexp.MustCompile(`#0103([0-9A-Fa-f]{2})`)
	prelude      = regexp.MustCompile(`(?s)^.*?<svg[^>]*viewBox="([^"]*)"[^>]*>`)
	families     = regexp.MustCompile(`font-family:[^;]*;font-variant:[^;]*;font-weight:[^;]*;font-style:[^;"]*;?`)
)

// The size of a plot; the page scales it.
const width, height = 15 * vg.Centimeter, 8 * vg.Centimeter

// render returns a plot as an element of a page. The label says in words what it shows.
func render(p *plot.Plot, label string) (template.HTML, error) {
	canvas := vgsvg.New(width, height)
	p.Draw(draw.Crop(draw.New(canvas), 0, -vg.Points(14), 0, -vg.Points(4))) // room for the last label of the axis
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return "", fmt.Errorf("drawing %s: %w", label, err)
	}
	box := prelude.FindStringSubmatch(b.String())
	if box == nil {
		return "", fmt.Errorf("drawing %s: no picture came out", label)
	}
	svg := prelude.ReplaceAllLiteralString(b.String(), fmt.Sprintf(`<svg role="img" aria-label="%s" viewBox="%s">`,
		template.HTMLEscapeString(label), box[1]))
	svg = families.ReplaceAllLiteralString(svg, "")
	svg = seriesColour.ReplaceAllStringFunc(svg, func(c string) string {
		n, _ := strconv.ParseUint(c[5:], 16, 8) // two hexadecimal digits, as matched
		return fmt.Sprintf("var(--series-%d)", n)
	})
	svg = strings.NewReplacer("#010203", "var(--ink)", "#010204", "var(--faint)").Replace(svg)
	return template.HTML(svg), nil // it is made of numbers and of the escaped label; plots escape their texts
}

// newPlot returns an empty plot in the style of the page.
func newPlot(x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	p.X.Label.Text, p.Y.Label.Text = x, y
	for _, t := range []*text.Style{&p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label} {
		t.Color, t.Font.Variant, t.Font.Size = ink, "Sans", vg.Points(9)
	}
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.LineStyle.Color, a.Tick.LineStyle.Color = faint, faint
		a.Padding = vg.Points(4)
	}
	grid := plotter.NewGrid()
	grid.Vertical.Width, grid.Horizontal.Color, grid.Horizontal.Width = 0, faint, vg.Points(0.25)
	p.Add(grid)
	return p
}

// bars are a value with its interval for each policy, and what the formula says.
type bars struct {
	plotter.XYs
	plotter.YErrors
}

// variationPlot compares the coefficients of variation.
func variationPlot(p *spread.Prediction) (template.HTML, error) {
	return figuresPlot(p, "coefficient of variation", "How uneven the load is, by policy",
		func(r spread.PolicyResult) (spread.Figure, bool) { return r.Spread.Variation, true })
}

// outagePlot compares how many queries fail.
func outagePlot(p *spread.Prediction) (template.HTML, error) {
	return figuresPlot(p, "share of queries that fail", "Queries that fail while one endpoint is silent, by policy",
		func(r spread.PolicyResult) (spread.Figure, bool) { return r.Outage.FailedQueries, false })
}

// figuresPlot draws a bar for what is simulated, its interval, and a dash for the formula.
func figuresPlot(p *spread.Prediction, axis, label string, of func(spread.PolicyResult) (f spread.Figure, rms bool)) (template.HTML, error) {
	out := newPlot("", axis)
	out.Y.Min = 0
	var names []string
	var intervals bars
	var formulas plotter.XYs
	for i, r := range p.Policies {
		f, rms := of(r)
		value, low, high := f.Simulated.Mean, f.Simulated.Low, f.Simulated.High
		if rms {
			value, low, high = f.Simulated.RMS, f.Simulated.RMSLow, f.Simulated.RMSHigh
		}
		bar, err := plotter.NewBarChart(plotter.Values{value}, vg.Points(34))
		if err != nil {
			return "", fmt.Errorf("drawing %s: %w", label, err)
		}
		bar.XMin, bar.Color, bar.LineStyle.Width = float64(i), series(r.Policy), 0
		out.Add(bar)
		names = append(names, string(r.Policy))
		intervals.XYs = append(intervals.XYs, plotter.XY{X: float64(i), Y: value})
		intervals.YErrors = append(intervals.YErrors, struct{ Low, High float64 }{value - low, high - value})
		if f.Formula != nil {
			formulas = append(formulas, plotter.XY{X: float64(i), Y: *f.Formula})
		}
	}
	out.NominalX(names...)
	out.X.Min, out.X.Max = -0.6, float64(len(names))-0.4
	if err := addMarks(out, intervals, formulas); err != nil {
		return "", fmt.Errorf("drawing %s: %w", label, err)
	}
	if out.Y.Max <= 0 {
		out.Y.Max = 1
	}
	return render(out, label)
}

// addMarks adds intervals and formulas to bars.
func addMarks(out *plot.Plot, intervals bars, formulas plotter.XYs) error {
	if len(intervals.XYs) > 0 {
		errors, err := plotter.NewYErrorBars(intervals)
		if err != nil {
			return err
		}
		errors.LineStyle.Color = ink
		out.Add(errors)
	}
	if len(formulas) == 0 {
		return nil
	}
	marks, err := plotter.NewScatter(formulas)
	if err != nil {
		return err
	}
	marks.GlyphStyle = draw.GlyphStyle{Color: ink, Radius: vg.Points(4), Shape: draw.RingGlyph{}}
	out.Add(marks)
	return nil
}

// exceedPlot shows how likely it is that the fullest endpoint has more than some multiple of the mean.
func exceedPlot(p *spread.Prediction) (template.HTML, error) {
	out := newPlot("load of the fullest endpoint, relative to the mean", "share of runs above it")
	out.Y.Min, out.Y.Max, out.X.Min = 0, 1, 1
	for _, r := range p.Policies {
		samples := r.Spread.MaxOverMean.Simulated
		var points plotter.XYs
		for q := 0; q <= 100; q++ {
			points = append(points, plotter.XY{X: samples.Quantile(float64(q) / 100), Y: 1 - float64(q)/100})
		}
		if err := addLine(out, r.Policy, points); err != nil {
			return "", fmt.Errorf("drawing the fullest endpoint: %w", err)
		}
	}
	if out.X.Max <= out.X.Min {
		out.X.Max = out.X.Min + 1
	}
	return render(out, "How full the fullest endpoint is, by policy")
}

func addLine(out *plot.Plot, policy spread.Policy, points plotter.XYs) error {
	line, err := plotter.NewLine(points)
	if err != nil {
		return err
	}
	line.LineStyle.Color, line.LineStyle.Width = series(policy), vg.Points(1.6)
	// Several policies may be the same line: dashes of different lengths let all be seen.
	if i := slices.Index(spread.Policies[:], policy); i%2 == 1 {
		line.LineStyle.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
	}
	out.Add(line)
	return nil
}

// rolloutPlot shows the load of each new pod after a rollout.
func rolloutPlot(p *spread.Prediction) (template.HTML, error) {
	out := newPlot("new pod, oldest first", "load, relative to the mean")
	out.Y.Min = 0
	for _, r := range p.Policies {
		var points plotter.XYs
		for e, share := range r.Rollout.Simulated {
			points = append(points, plotter.XY{X: float64(e + 1), Y: share * float64(len(r.Rollout.Simulated))})
		}
		if len(points) == 1 {
			points = append(points, plotter.XY{X: 2, Y: points[0].Y})
		}
		if err := addLine(out, r.Policy, points); err != nil {
			return "", fmt.Errorf("drawing the rollout: %w", err)
		}
	}
	out.X.Tick.Marker = wholeTicks{}
	out.Y.Max = max(1.2, out.Y.Max*1.15)
	return render(out, "Load of each new pod after a rollout, by policy")
}

// wholeTicks are ticks at whole numbers, at most ten.
type wholeTicks struct{}

// Ticks returns the ticks of an axis.
func (wholeTicks) Ticks(low, high float64) []plot.Tick {
	step := math.Max(1, math.Ceil((high-low)/10))
	var ticks []plot.Tick
	for v := math.Ceil(low); v <= high; v += step {
		ticks = append(ticks, plot.Tick{Value: v, Label: strconv.Itoa(int(v))})
	}
	return ticks
}

// cliffPlot shows how affinity ends with more clients; "" where it does not.
func cliffPlot(p *spread.Prediction) (template.HTML, error) {
	if len(p.Cliff.Curve) == 0 {
		return "", nil
	}
	out := newPlot("clients of a node", "share of clients that moved")
	out.Y.Min, out.Y.Max = 0, 1
	var points plotter.XYs
	for _, c := range p.Cliff.Curve {
		points = append(points, plotter.XY{X: float64(c.Clients), Y: c.Moved.Mean})
	}
	if err := addLine(out, spread.PolicyClientIP, points); err != nil {
		return "", fmt.Errorf("drawing the cliff: %w", err)
	}
	here := min(float64(p.Cliff.Clients), points[len(points)-1].X)
	for _, mark := range []struct {
		at     float64
		dashes []vg.Length
	}{
		{float64(p.Cliff.Capacity), []vg.Length{vg.Points(2), vg.Points(3)}},
		{here, nil},
	} {
		line, err := plotter.NewLine(plotter.XYs{{X: mark.at, Y: 0}, {X: mark.at, Y: 1}})
		if err != nil {
			return "", fmt.Errorf("drawing the cliff: %w", err)
		}
		line.LineStyle = draw.LineStyle{Color: ink, Width: vg.Points(1), Dashes: mark.dashes}
		out.Add(line)
	}
	return render(out, "How ClientIP affinity ends with the number of clients")
}
