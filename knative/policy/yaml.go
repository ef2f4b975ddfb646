package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/limpet-project/limpet/affinity"
	"github.com/limpet-project/limpet/config"
)

// given says what a structured policy gives, and hence what simple annotations may not.
type given struct {
	off, session, revision bool
}

// givenBy returns what a text that is a policy gives: a policy with its defaults filled in does not tell.
func givenBy(text string) given {
	var p struct{ Session, Revision json.RawMessage }
	if err := yaml.Unmarshal([]byte(text), &p); err != nil {
		return given{} // parsePolicy has said so
	}
	return given{session: p.Session != nil, revision: p.Revision != nil}
}

// word is a text that YAML would take for a value, where a mapping is expected. "null" is one too, and no way to write {}.
var word = regexp.MustCompile(`^[A-Za-z][0-9A-Za-z_-]*$`)

// parsePolicy reads a policy and fills it in. The problems begin with name.
func parsePolicy(name, text string) (*affinity.Policy, config.Problems) {
	trimmed := strings.TrimSpace(text)
	switch {
	case trimmed == "":
		return nil, problem(name, "got nothing, expected a policy, {} for the defaults, or off")
	case word.MatchString(trimmed):
		return nil, problem(name, "got %q, expected a policy, {} for the defaults, or off", trimmed)
	case len(text) > maxPolicyBytes:
		return nil, problem(name, "got %d bytes, expected at most %d", len(text), maxPolicyBytes)
	}
	p, err := config.ParsePolicy(name, []byte(text))
	var problems config.Problems
	if err != nil && !errors.As(err, &problems) {
		return nil, problem(name, "%v", err)
	}
	if err == nil {
		problems = headerProblems(name, p)
	}
	return p, problems
}

func problem(name, format string, args ...any) config.Problems {
	return config.Problems{{File: name, Reason: fmt.Sprintf(format, args...)}}
}

// headerProblems says which headers of a policy never reach the choice of an endpoint.
func headerProblems(name string, p *affinity.Policy) config.Problems {
	var problems config.Problems
	check := func(field, header string) {
		if fault := headerFault(header); header != "" && fault != "" {
			reason := fmt.Sprintf("got %q, expected %s", header, fault)
			problems = append(problems, &config.Problem{File: name, Field: field, Reason: reason})
		}
	}
	if s := p.Session; s != nil {
		for i, from := range s.From {
			check(fmt.Sprintf("session.from[%d].header", i), from.Header)
		}
		if s.Token != nil {
			check("session.token.header", s.Token.Header)
		}
	}
	if r := p.Revision; r != nil {
		for i, from := range r.From {
			check(fmt.Sprintf("revision.from[%d].header", i), from.Header)
		}
	}
	return problems
}
