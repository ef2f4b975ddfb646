package activator

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// A claim is what an activator asks of another one. Only activators can make one: its seal has a key that they share.
type claim struct {
	Ask      string // askPlace, askTake or askCensus
	From, To string // the activators that ask and are asked; another one may have the address of one that has ended
	Pod      string
	Limit    int           // of the pod
	Term     uint64        // in which the activator that asks to count will
	Wait     time.Duration // for a place
}

// validity is how long a claim counts, and how far the clocks of activators may be apart.
const validity = 30 * time.Second

// A sealer seals claims. It is safe for concurrent use.
type sealer struct{ key []byte }

// newSealer returns a sealer with a key that follows from the secret of the digester. No namespace of a cluster has a slash in its name,
// so no key of a session is made in that scope.
func newSealer(d *affinity.Digester) *sealer {
	scope := affinity.Scope{Service: affinity.ServiceName{Namespace: "limpet/activator", Name: "forward"}}
	key := d.Key(scope, "seal of claims, version 3")
	return &sealer{key: key.Digest[:]}
}

// seal returns what c is in a header.
func (s *sealer) seal(c claim, now time.Time) string {
	text := strings.Join([]string{
		strconv.FormatInt(now.Add(validity).Unix(), 10), strconv.FormatInt(int64(c.Wait), 10), strconv.Itoa(c.Limit), strconv.FormatUint(c.Term, 10),
		c.Ask, c.From, c.To, c.Pod,
	}, "\n")
	return base64.RawURLEncoding.EncodeToString([]byte(text)) + "." + base64.RawURLEncoding.EncodeToString(s.sum(text))
}

func (s *sealer) sum(text string) []byte {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(text)) // a hash.Hash never returns an error
	return mac.Sum(nil)
}

// errSeal means that a claim was not made by an activator, or long ago.
var errSeal = errors.New("expected a claim that an activator has sealed lately")

// open returns the claim that a header holds.
func (s *sealer) open(sealed string, now time.Time) (claim, error) {
	encoded, seal, _ := strings.Cut(sealed, ".")
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return claim{}, errSeal
	}
	sum, err := base64.RawURLEncoding.DecodeString(seal)
	if err != nil || !hmac.Equal(sum, s.sum(string(text))) {
		return claim{}, errSeal
	}
	fields := strings.Split(string(text), "\n")
	if len(fields) != 8 {
		return claim{}, errSeal
	}
	end, err1 := strconv.ParseInt(fields[0], 10, 64)
	wait, err2 := strconv.ParseInt(fields[1], 10, 64)
	limit, err3 := strconv.Atoi(fields[2])
	term, err4 := strconv.ParseUint(fields[3], 10, 64)
	left := time.Unix(end, 0).Sub(now)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil || left < 0 || left > 2*validity {
		return claim{}, errSeal
	}
	return claim{
		Wait: time.Duration(wait), Limit: limit, Term: term, Ask: fields[4], From: fields[5], To: fields[6], Pod: fields[7],
	}, nil
}
