package activator

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
)

// roundTrips answer the requests in turn.
type roundTrips []func(*http.Request) (*http.Response, error)

func (t *roundTrips) RoundTrip(r *http.Request) (*http.Response, error) {
	next := (*t)[0]
	*t = (*t)[1:]
	return next(r)
}

func served(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK}, nil
}

func canceled(*http.Request) (*http.Response, error) { return nil, context.Canceled }

func TestARequestIsNotEndedByAnothersClient(t *testing.T) {
	for _, c := range []struct {
		name, method, body string
		trips              roundTrips
		want               string
	}{
		{"served at once", "GET", "", roundTrips{served}, ""},
		{"sent once more", "GET", "", roundTrips{canceled, served}, ""},
		{"broken off twice", "GET", "", roundTrips{canceled, canceled}, "broken off"},
		{"not to be sent twice", "POST", "", roundTrips{canceled}, "broken off"},
		{"a body is not sent twice", "GET", "a body", roundTrips{canceled}, "broken off"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), c.method, "http://pod-a", strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := severed{&c.trips}.RoundTrip(r)
			switch {
			case len(c.trips) > 0:
				t.Errorf("%d attempts too few", len(c.trips))
			case c.want == "" && (err != nil || resp.StatusCode != http.StatusOK):
				t.Errorf("RoundTrip = %v, %v, want 200", resp, err)
			case c.want != "" && (err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("RoundTrip = %v, want an error that says %q and is not %v", err, c.want, context.Canceled)
			}
		})
	}
}

func TestARequestWhoseClientWentIsCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://pod-a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (severed{&roundTrips{canceled}}).RoundTrip(r); !errors.Is(err, context.Canceled) {
		t.Errorf("RoundTrip = %v, want %v", err, context.Canceled)
	}
}
