package redistest

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// Do sends a command over a connection of its own and returns the reply as text; the elements of an array are on lines of
// their own. An error reply fails the test.
func (s *Server) Do(args ...string) string {
	s.t.Helper()
	reply, err := s.Try(args...)
	if err != nil {
		s.t.Fatalf("redis %s: %v", strings.Join(args, " "), err)
	}
	return reply
}

// Try is Do that returns an error instead of failing the test.
func (s *Server) Try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return command(ctx, s.Addr(), s.options.user, s.options.password, s.TLSConfig(), args)
}

func command(ctx context.Context, addr, user, password string, c *tls.Config, args []string) (string, error) {
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{addr}, Username: user, Password: password, TLSConfig: c, ForceSingleClient: true,
		AlwaysRESP2:  true, // in RESP3 some texts have their format before them
		DisableCache: true, DisableRetry: true, PipelineMultiplex: -1, ConnWriteTimeout: patience,
		ClientSetInfo: rueidis.DisableClientSetInfo, Dialer: net.Dialer{Timeout: patience},
	})
	if client != nil {
		defer client.Close()
	}
	if err != nil {
		return "", fmt.Errorf("connecting to %s: %w", addr, err)
	}
	m, err := client.Do(ctx, client.B().Arbitrary(args...).Build()).ToMessage()
	if rueidis.IsRedisNil(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return text(m), nil
}

// text renders a reply of any type.
func text(m rueidis.RedisMessage) string {
	if s, err := m.ToString(); err == nil {
		return s
	}
	if n, err := m.AsInt64(); err == nil {
		return strconv.FormatInt(n, 10)
	}
	if elements, err := m.ToArray(); err == nil {
		return lines(elements)
	}
	if fields, err := m.AsStrMap(); err == nil {
		var b strings.Builder
		for k, v := range fields {
			fmt.Fprintf(&b, "%s\n%s\n", k, v)
		}
		return strings.TrimSuffix(b.String(), "\n")
	}
	return m.String()
}

func lines(elements []rueidis.RedisMessage) string {
	parts := make([]string, len(elements))
	for i, e := range elements {
		parts[i] = text(e)
	}
	return strings.Join(parts, "\n")
}
