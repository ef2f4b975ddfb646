package affinity

import (
	"fmt"
	"strings"
	"time"
)

// A Duration is a time.Duration that YAML and JSON write as "1h30m". Negative values are refused when decoded.
type Duration time.Duration

// String returns the duration without zero parts at the end: "1h30m", "2s", "0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if short, cut := strings.CutSuffix(s, "m0s"); cut {
		s = short + "m"
	}
	if short, cut := strings.CutSuffix(s, "h0m"); cut {
		s = short + "h"
	}
	return s
}

// MarshalText returns what String returns.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads, except negative durations.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf(`expected a duration such as "1h30m", got %q`, text)
	}
	if v < 0 {
		return fmt.Errorf("expected a duration that is not negative, got %q", text)
	}
	*d = Duration(v)
	return nil
}
