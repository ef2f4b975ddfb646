// Package token seals a binding into a value that the client carries: nothing is stored, and every gateway with the same keys can
// read it.
//
// A token is confidential and authentic (AES-256-GCM): the client can neither read nor alter it, and a token of another service
// or tag does not open. It does not prove who the client is, and it can be repeated by whoever has it.
//
// Start with [Ring.Seal] and [Ring.Open].
package token

import (
	"errors"
	"time"

	"github.com/limpet-project/limpet/affinity"
)

// Errors of [Ring.Open] and [Ring.Seal].
var (
	// ErrInvalid means that a value is not a token of this ring and scope: forged, foreign, truncated. It is treated as no token.
	ErrInvalid = errors.New("not a valid token")
	// ErrExpired means that a value is a token of this ring and scope whose time is over. The claim is returned with it.
	ErrExpired = errors.New("token has expired")
	// ErrNoKey means that a ring without keys was asked to seal.
	ErrNoKey = errors.New("no token key")
)

// A Claim is what a token says. Times are carried to the millisecond.
type Claim struct {
	Scope  affinity.Scope // checked when opened; kind session
	Target affinity.Target
	// Session is a random name of the session, made when its first token was sealed: the digest of its key.
	Session [16]byte
	Made    time.Time // when the binding was made (not when it was last sealed)
	Issued  time.Time // when this token was sealed
	Expires time.Time // end by idle: Issued + 1.25 × idle
	Until   time.Time // absolute end; the zero time is none
}
