package policy

import (
	"strings"
	"testing"
)

func TestSessionLoad(t *testing.T) {
	tests := []struct {
		name     string
		data     map[string]string
		sessions int64
		want     float64
	}{
		{"sessions are no load unless it is asked for", nil, 1000, 0},
		{"a bound alone asks for nothing", map[string]string{"session-load-max": "10"}, 1000, 0},
		{"zero is off", map[string]string{"session-load": "0"}, 1000, 0},
		{"each session counts", map[string]string{"session-load": "0.1\n"}, 3, 0.30000000000000004},
		{"a pod is bounded without being asked for", map[string]string{"session-load": "0.1"}, 1000, 1},
		{"a pod is bounded as asked for", map[string]string{"session-load": "0.1", "session-load-max": "0.5"}, 1000, 0.5},
		{"no sessions are no load", map[string]string{"session-load": "0.1"}, 0, 0},
		{"nor are fewer", map[string]string{"session-load": "0.1"}, -2, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := defaults(t, tt.data).SessionLoad().Of(tt.sessions); got != tt.want {
				t.Errorf("SessionLoad(%q).Of(%d) = %v, want %v", tt.data, tt.sessions, got, tt.want)
			}
		})
	}
}

func TestAWrongSessionLoadIsRefused(t *testing.T) {
	want := `config-limpet/session-load-max:1: got "0", expected more than 0; without session-load sessions are no load`
	if _, err := ParseDefaults(configMap(map[string]string{"session-load-max": "0"})); err == nil || err.Error() != want {
		t.Errorf("ParseDefaults(session-load-max: 0) = %v, want the error %q", err, want)
	}
	for _, key := range []string{"session-load", "session-load-max"} {
		for _, value := range []string{"", "-1", "much", "NaN", "Inf", "1e9", "0.1 each"} {
			want := "config-limpet/" + key + ":1: got \"" + value + "\", expected a number of requests at the same time from 0 to "
			if _, err := ParseDefaults(configMap(map[string]string{key: value})); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("ParseDefaults(%s: %q) = %v, want the error %q", key, value, err, want)
			}
		}
	}
}
