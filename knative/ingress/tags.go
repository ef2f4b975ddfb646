package ingress

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/util/sets"
	"knative.dev/networking/pkg/apis/networking"
	"knative.dev/networking/pkg/apis/networking/v1alpha1"
	"knative.dev/networking/pkg/ingress"
	"knative.dev/serving/pkg/apis/serving"
)

// tagsOf returns the tag that each of an Ingress' hosts is of; hosts of the default traffic are not in it. An Ingress that is not a
// Route's has none: nil. The reconciler of Routes writes the tags beside the rules that they belong to, so that they never disagree
// with them as a Route's status could for a moment.
func tagsOf(i *v1alpha1.Ingress) (map[string]string, error) {
	if i.Labels[serving.RouteLabelKey] == "" || i.Labels[serving.DomainMappingUIDLabelKey] != "" {
		return nil, nil
	}
	hosts := map[string][]string{}
	if written := i.Annotations[networking.TagToHostAnnotationKey]; written != "" {
		if err := json.Unmarshal([]byte(written), &hosts); err != nil {
			return nil, fmt.Errorf("reading the annotation %s: %w", networking.TagToHostAnnotationKey, err)
		}
	}
	tags := make(map[string]string, len(hosts))
	for tag, list := range hosts {
		// A host inside the cluster is named in full; its rule has the short forms too.
		for host := range ingress.ExpandedHosts(sets.New(list...)) {
			tags[host] = tag
		}
	}
	return tags, nil
}
