package ingress

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"knative.dev/networking/pkg/apis/networking"
	"knative.dev/serving/pkg/apis/serving"
)

func TestTagsOf(t *testing.T) {
	route := map[string]string{serving.RouteLabelKey: "demo"}
	for _, tt := range []struct {
		name    string
		labels  map[string]string
		written string
		want    map[string]string
		fails   bool
	}{
		{
			name: "a Route with a tag, inside and outside", labels: route,
			written: `{"blue":["blue-demo.default.svc.cluster.local","blue-demo.default.example.com"]}`,
			want: map[string]string{
				"blue-demo.default.example.com": "blue", "blue-demo.default.svc.cluster.local": "blue",
				"blue-demo.default.svc": "blue", "blue-demo.default": "blue",
			},
		},
		{name: "a Route without tags", labels: route, want: map[string]string{}},
		{name: "what is no Route's", written: `{"blue":["blue-demo.default.example.com"]}`},
		{name: "a DomainMapping with a Route's label", labels: map[string]string{serving.RouteLabelKey: "demo", serving.DomainMappingUIDLabelKey: "1"}},
		{name: "an annotation that cannot be read", labels: route, written: `blue`, fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := demo("demo", "demo.default.example.com", "demo-00001")
			i.Labels = tt.labels
			if tt.written != "" {
				i.Annotations[networking.TagToHostAnnotationKey] = tt.written
			}
			got, err := tagsOf(i)
			if diff := cmp.Diff(tt.want, got); diff != "" || (err != nil) != tt.fails {
				t.Errorf("tagsOf() fails with %v, want %t; (-want +got):\n%s", err, tt.fails, diff)
			}
		})
	}
}
