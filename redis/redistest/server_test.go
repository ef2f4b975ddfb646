package redistest_test

import (
	"strings"
	"testing"

	"github.com/limpet-project/limpet/redis/redistest"
)

func TestAServerKeepsOrLosesItsDataWhenRestarted(t *testing.T) {
	s := redistest.Start(t)
	s.Do("SET", "demo-00001", "10.0.0.1:8080")
	s.RestartKeeping()
	if got := s.Do("GET", "demo-00001"); got != "10.0.0.1:8080" {
		t.Errorf("GET after RestartKeeping = %q, want %q", got, "10.0.0.1:8080")
	}
	s.Restart()
	if got := s.Do("GET", "demo-00001"); got != "" {
		t.Errorf("GET after Restart = %q, want %q", got, "")
	}
}

func TestAServerRefusesWhatItIsToldToRefuse(t *testing.T) {
	s := redistest.Start(t)
	s.FillMemory(true)
	refuses(t, s, "OOM")
	s.FillMemory(false)
	s.SetReadonly(true)
	refuses(t, s, "READONLY")
	s.SetReadonly(false)
	s.Do("SET", "demo-00001", "10.0.0.1:8080")
}

func refuses(t *testing.T, s *redistest.Server, code string) {
	t.Helper()
	if _, err := s.Try("SET", "demo-00001", "10.0.0.1:8080"); err == nil || !strings.Contains(err.Error(), code) {
		t.Errorf("SET = %v, want an error with %s", err, code)
	}
}

func TestAServerSpeaksTLSWithAPassword(t *testing.T) {
	s := redistest.Start(t, redistest.TLS(), redistest.Password("correct-horse"))
	if got := s.Do("PING"); got != "PONG" {
		t.Errorf("PING = %q, want PONG", got)
	}
	if !strings.HasPrefix(s.URL(), "rediss://:correct-horse@127.0.0.1:") {
		t.Errorf("URL() = %q, want rediss with the password", s.URL())
	}
}
