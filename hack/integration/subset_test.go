package integration_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/headgate/headgate/api/v1alpha1"
)

// TestSubsets holds that requests choose endpoints by the labels of pods, that
// these are followed, and that pods are only read where that is allowed.
func TestSubsets(t *testing.T) {
	const name = "subsets"
	unable := start(t, "subsets-unable", "127.0.0.2")
	apply(t, world(name))
	named := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
	}
	for i := range 2 {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: fmt.Sprint("pod-", i), Labels: map[string]string{"version": fmt.Sprint("v", i+1)}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "example.com/app"}}},
		}
		if err := kube.Create(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		slice := endpoints(name, serve(t, i+1, named(string(rune('a'+i)))))
		slice.Name = fmt.Sprint("app-", i)
		slice.Endpoints[0].TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: name, Name: pod.Name, UID: pod.UID}
		if err := kube.Create(t.Context(), slice); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, `
apiVersion: headgate.dev/v1alpha1
kind: BackendPolicy
metadata: {name: app, namespace: subsets}
spec:
  targetRefs: [{group: "", kind: Service, name: app}]
  balance: {subset: {selectors: [{header: X-Subset, label: version}], fallback: None}}
`)
	eventually(t, "the policy is refused", func() error {
		var p v1alpha1.BackendPolicy
		if err := kube.Get(t.Context(), types.NamespacedName{Namespace: name, Name: "app"}, &p); err != nil {
			return err
		}
		for _, a := range p.Status.Ancestors {
			if c := meta.FindStatusCondition(a.Conditions, "Accepted"); c != nil && c.Status == metav1.ConditionFalse && strings.Contains(c.Message, "readPods") {
				return nil
			}
		}
		return fmt.Errorf("%+v", p.Status)
	})
	unable.stop(t)

	web := types.NamespacedName{Namespace: name, Name: "web"}
	asks := func(r *replica, version string) string {
		status, body, err := get(http.DefaultClient, r.address(t, web, 80), "any", "/app", "X-Subset", version)
		return fmt.Sprint(status, " ", body, " ", err)
	}
	gets := func(r *replica, version, want string) {
		t.Helper()
		eventually(t, version+" gets "+want, func() error {
			if got := asks(r, version); !strings.HasPrefix(got, want) {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
	}
	able := start(t, "subsets-able", "127.0.0.1", "--read-pods")
	gets(able, "v1", "200 a")
	gets(able, "v2", "200 b")
	gets(able, "v3", "503")
	var pod corev1.Pod
	update(t, types.NamespacedName{Namespace: name, Name: "pod-1"}, &pod, func() { pod.Labels["version"] = "v3" })
	gets(able, "v3", "200 b")
	gets(able, "v2", "503")
	able.stop(t)

	// From the first request on: what pods say is there before anything serves.
	again := start(t, "subsets-again", "127.0.0.1", "--read-pods")
	if got := asks(again, "v3"); !strings.HasPrefix(got, "200 b") {
		t.Errorf("at once after its start: %s", got)
	}
	if err := kube.Delete(t.Context(), &pod); err != nil {
		t.Fatal(err)
	}
	gets(again, "v3", "503")
}
