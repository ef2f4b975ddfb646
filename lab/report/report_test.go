package report

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/limpet-project/limpet/lab/spread"
)

func predict(t *testing.T, edit func(*spread.Scenario)) *spread.Prediction {
	t.Helper()
	s := spread.DefaultScenario()
	s.Runs = 20
	edit(&s)
	p, err := spread.Predict(context.Background(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var (
	elsewhere = regexp.MustCompile(`(?i)(src|href|action)\s*=|url\(|@import|<script|<link|<iframe|https?://`)
	colour    = regexp.MustCompile(`(?:fill|stroke):#[0-9A-Fa-f]{6}`)
	pictures  = regexp.MustCompile(`(?s)<svg .*?</svg>`)
)

func TestAPageIsCompleteInItself(t *testing.T) {
	tests := []struct {
		name  string
		edit  func(*spread.Scenario)
		plots int
	}{
		{"the default", func(*spread.Scenario) {}, 5},
		{"one policy, one endpoint, one client", func(s *spread.Scenario) {
			s.Policies, s.Endpoints, s.Clients = []spread.Policy{spread.PolicyBound}, 1, spread.Equal(1)
		}, 4},
		{"lists that are never full have no cliff", func(s *spread.Scenario) { s.Mode = spread.ModeNFTables; s.Endpoints = 20 }, 4},
		{"beyond the cliff", func(s *spread.Scenario) { s.Clients = spread.Equal(2000); s.Detect = time.Second }, 5},
		{"many endpoints", func(s *spread.Scenario) { s.Endpoints = 40 }, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := predict(t, tt.edit)
			p.Warnings = append(p.Warnings, "</p><script>alert(1)</script>")
			var b bytes.Buffer
			if err := Write(&b, p); err != nil {
				t.Fatal(err)
			}
			if m := elsewhere.FindString(b.String()); m != "" {
				t.Errorf("the page has %q, want nothing that loads or runs", m)
			}
			found := pictures.FindAllString(b.String(), -1)
			if len(found) != tt.plots {
				t.Errorf("the page has %d plots, want %d", len(found), tt.plots)
			}
			for _, svg := range found {
				checkPicture(t, svg)
			}
		})
	}
}

// checkPicture finds what would not be drawn, or not be seen in one of light and dark.
func checkPicture(t *testing.T, svg string) {
	t.Helper()
	if c := colour.FindString(svg); c != "" {
		t.Errorf("a plot has %s, want variables of the page only", c)
	}
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Errorf("a plot has a number that is none")
	}
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		switch _, err := d.Token(); err {
		case nil:
		case io.EOF:
			return
		default:
			t.Errorf("a plot is no XML: %v", err)
			return
		}
	}
}

func TestTextSaysWhatThePageSays(t *testing.T) {
	p := predict(t, func(s *spread.Scenario) { s.Clients = spread.Equal(400); s.Seed = 4711 })
	var b strings.Builder
	if err := WriteText(&b, p); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"400 clients, as uneven as 400 of equal weight, on 1 node in 1 zone; 3 endpoints; a fresh socket for every query",
		"seed 4711", "POLICY", "none        0.026 ", "flow-hash", "its lists hold 300 addresses (133.3 %)", "Warning: ClientIP affinity does not hold",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the text has no %q:\n%s", want, b.String())
		}
	}
	for _, line := range strings.Split(b.String(), "\n") {
		if strings.HasSuffix(line, " ") && !strings.Contains(line, "Warning") {
			t.Errorf("line %q ends with a space", line)
		}
	}
}

func TestPodsInTheMiddleAreLeftOut(t *testing.T) {
	shares := []float64{0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1}
	if got, want := pods(shares), "1.60 1.60 0.80 … 0.80 0.80 0.80"; got != want {
		t.Errorf("pods(%v) = %q, want %q", shares, got, want)
	}
}

func TestNumbersHaveThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0.000", 0.0258: "0.026", 1.5: "1.50", 21.07: "21.1", 400: "400", 45000: "45000"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}
