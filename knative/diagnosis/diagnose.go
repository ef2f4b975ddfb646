// Package diagnosis tells users why Knative's activator cannot keep their sessions, and what mends it.
//
// The activator keeps sessions and flows of requests that pass it, at pods that it can address; Knative decides whether they do, by settings
// that seem to have nothing to do with affinity. [Diagnose] finds what is in the way of one Route, and a [Controller] says it by an event
// on the Service, or on the Route if there is no Service. It says each thing once, of Routes that have affinity, and changes nothing. What it
// does not know yet, it does not take for wrong.
//
// Start with [New].
package diagnosis

import (
	"fmt"
	"strconv"
	"unicode/utf8"

	"knative.dev/serving/pkg/apis/autoscaling"

	"github.com/limpet-project/limpet/affinity"
)

// The reasons of the events.
const (
	ReasonMisconfigured  = "AffinityMisconfigured" // annotations are wrong
	ReasonNotInPath      = "ActivatorNotInPath"    // it leaves the path when a revision has pods enough
	ReasonNeverInPath    = "ActivatorNeverInPath"  // it is never in the path of a revision with pods
	ReasonNotAddressable = "PodsNotAddressable"    // the mesh hides the pods
)

// Facts are what is known of one Route.
type Facts struct {
	// Policy is how the Route sticks; nil does not. Wrong is why its annotations are not a policy, nil if they are.
	Policy *affinity.Policy
	Wrong  error
	// Asked says that the Route has annotations of ours. Otherwise it has affinity because the whole cluster does.
	Asked bool
	// Revisions get its requests.
	Revisions []Revision
	// MeshHidesPods says that pods can be reached by their Service only.
	MeshHidesPods bool
}

// A Revision is what is known of one that gets requests.
type Revision struct {
	Name          string
	Class         string  // of its autoscaler
	BurstCapacity float64 // target-burst-capacity
}

// A Problem is why affinity cannot work. Problems are comparable: two that are equal are one.
type Problem struct {
	Reason, Message string
	// Asked says that somebody has asked for what does not work.
	Asked bool
}

// ever is the target-burst-capacity that keeps the activator in the path.
const ever = -1

const (
	maxProblems = 8    // of one Route
	maxMessage  = 1000 // bytes; events are for reading, and users write annotations of any length
)

// Diagnose returns the problems of a Route, those of all its requests first. One that has no affinity has none.
func Diagnose(f Facts) []Problem {
	if f.Wrong != nil {
		return []Problem{{ReasonMisconfigured, clip("There is no affinity: " + f.Wrong.Error()), true}}
	}
	if f.Policy == nil || f.Policy.Session == nil && f.Policy.Revision == nil {
		return nil
	}
	var problems []Problem
	if f.MeshHidesPods {
		problems = append(problems, Problem{ReasonNotAddressable, "Sessions and flows are not kept: mesh-compatibility-mode in config-network is " +
			"enabled, and pods are reached by their Service only. Set enable-mesh-pod-addressability to \"true\", if the mesh allows it, and " +
			"restart the activators.", f.Asked})
	}
	for _, r := range f.Revisions {
		if reason, message := r.problem(); reason != "" && len(problems) < maxProblems {
			problems = append(problems, Problem{reason, message, f.Asked})
		}
	}
	return problems
}

// problem returns what is in the way of requests for the revision, "" for nothing. Of classes of others nothing is known.
func (r Revision) problem() (reason, message string) {
	switch {
	case r.Class == autoscaling.HPA:
		return ReasonNeverInPath, fmt.Sprintf("Sessions and flows of revision %s are not kept: while it has pods, requests never pass the "+
			"activator, for it has the autoscaler class %s. Its target-burst-capacity does not change that. Use the class %s, or Limpet's "+
			"ingress.", r.Name, autoscaling.HPA, autoscaling.KPA)
	case r.Class == autoscaling.KPA && r.BurstCapacity != ever:
		capacity := strconv.FormatFloat(r.BurstCapacity, 'f', -1, 64)
		return ReasonNotInPath, fmt.Sprintf("Sessions and flows of revision %s are not kept: while its pods have room, requests do not pass the "+
			"activator, for its target-burst-capacity is %s. Set the annotation %s: \"-1\" in the template, which makes a new revision, or "+
			"target-burst-capacity in config-autoscaler, or use Limpet's ingress.",
			r.Name, capacity, autoscaling.TargetBurstCapacityKey)
	}
	return "", ""
}

// clip bounds a message.
func clip(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	end := maxMessage
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
