package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/limpet-project/limpet/lab/spread"
)

var (
	//go:embed page.html
	pageText string
	//go:embed style.html
	styleText string
)

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"rms": rms, "mean": mean, "formula": formula, "percent": percent, "share": share, "moved": moved, "pods": pods, "number": number,
	"sockets": sockets, "count": count,
	"whole": func(v float64) string { return fmt.Sprintf("%.0f", v) },
}).Parse(styleText + pageText))

// A view is what the page shows.
type view struct {
	*spread.Prediction
	VariationPlot, ExceedPlot, RolloutPlot, CliffPlot, OutagePlot template.HTML
}

// Write writes the prediction as one HTML page.
func Write(w io.Writer, p *spread.Prediction) error {
	v := view{Prediction: p}
	for _, plot := range []struct {
		into *template.HTML
		draw func(*spread.Prediction) (template.HTML, error)
	}{
		{&v.VariationPlot, variationPlot},
		{&v.ExceedPlot, exceedPlot},
		{&v.RolloutPlot, rolloutPlot},
		{&v.CliffPlot, cliffPlot},
		{&v.OutagePlot, outagePlot},
	} {
		var err error
		if *plot.into, err = plot.draw(p); err != nil {
			return err
		}
	}
	if err := page.Execute(w, v); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// number prints three digits that count, without exponents.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func interval(v, low, high float64) string {
	return fmt.Sprintf("%s (%s–%s)", number(v), number(low), number(high))
}

func rms(f spread.Figure) string {
	return interval(f.Simulated.RMS, f.Simulated.RMSLow, f.Simulated.RMSHigh)
}

func mean(f spread.Figure) string {
	return interval(f.Simulated.Mean, f.Simulated.Low, f.Simulated.High)
}

// moved prints a share that only ClientIP affinity has.
func moved(e *spread.Estimate) string {
	return orDash(e != nil, func() string { return percent(e.Mean) })
}

// share prints what a formula says, if there is one.
func share(v *float64) string {
	return orDash(v != nil, func() string { return percent(*v) })
}

func formula(f spread.Figure) string {
	return orDash(f.Formula != nil, func() string {
		if f.UpTo {
			return "≤ " + number(*f.Formula)
		}
		return number(*f.Formula)
	})
}

func percent(v float64) string {
	if v > 0 && v < 0.001 {
		return "< 0.1 %"
	}
	return fmt.Sprintf("%.1f %%", 100*v)
}

func orDash(have bool, text func() string) string {
	if !have {
		return "–"
	}
	return text()
}

// pods prints the load of pods relative to their mean, the middle ones left out where there are many.
func pods(shares []float64) string {
	const most = 6
	var list []string
	for i, s := range shares {
		switch {
		case len(shares) <= most, i < most/2, i >= len(shares)-most/2:
			list = append(list, fmt.Sprintf("%.2f", s*float64(len(shares))))
		case i == most/2:
			list = append(list, "…")
		}
	}
	return strings.Join(list, " ")
}

// count prints a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func sockets(n int) string {
	switch n {
	case 0:
		return "a fresh socket for every query"
	case 1:
		return "one socket a client, reused"
	}
	return fmt.Sprintf("%d sockets a client, reused", n)
}
