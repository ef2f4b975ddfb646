package policy

import (
	"fmt"
	"strconv"

	"github.com/limpet-project/limpet/config"
)

// A SessionLoad says how much live sessions count for the autoscaler, in requests at the same time. The zero SessionLoad counts none.
type SessionLoad struct {
	Session float64 // of one live session
	Pod     float64 // of all sessions of one pod at most; 0 is defaultPodLoad
}

// The bounds of session-load and session-load-max. A pod with more requests than maxPodLoad at once is none that Knative is made for.
const (
	defaultPodLoad = 1
	maxSessionLoad = 100
	maxPodLoad     = 1000
)

// Of returns how much so many live sessions of one pod count for.
func (l SessionLoad) Of(sessions int64) float64 {
	return min(l.Session*float64(max(sessions, 0)), l.Pod)
}

// SessionLoad returns how much live sessions count for the autoscaler.
func (d Defaults) SessionLoad() SessionLoad {
	l := d.load
	if l.Session == 0 {
		return SessionLoad{}
	}
	if l.Pod == 0 {
		l.Pod = defaultPodLoad
	}
	return l
}

// setLoad takes a number of requests at the same time.
func setLoad(to *float64, key, value string, most float64) config.Problems {
	n, err := strconv.ParseFloat(value, 64)
	if err != nil || !(n >= 0 && n <= most) { // which is false for what is not a number
		return line1(key, fmt.Sprintf("got %q, expected a number of requests at the same time from 0 to %v, such as 0.1", value, most))
	}
	if n == 0 && key == maxLoadKey {
		return line1(key, fmt.Sprintf("got %q, expected more than 0; without %s sessions are no load", value, loadKey))
	}
	*to = n
	return nil
}
