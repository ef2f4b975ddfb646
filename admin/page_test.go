package admin

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPageLoadsNothingFromElsewhereAndIsNotFramed(t *testing.T) {
	g := newGateway(t)
	for _, path := range []string{"/", "/style.css", "/app.js"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:9901"+path, nil)
		g.handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Errorf("GET %s = %d, want 200", path, w.Code)
		}
		policy := w.Header().Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'self'") || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("GET %s: Content-Security-Policy = %q", path, policy)
		}
		if body := w.Body.String(); strings.Contains(body, "https://") || strings.Contains(body, "innerHTML") {
			t.Errorf("GET %s refers to another host or makes HTML of text", path)
		}
	}
}
