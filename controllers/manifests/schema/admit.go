package schema

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metavalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// Error is one thing that the API server would refuse.
type Error struct {
	// Field is the path in the object, such as "spec.rules[0].matches".
	Field string
	// Message says what is wrong, Want what would be right.
	Message string
	Want    string
}

// Admit fills in defaults and returns what an API server would refuse, as far
// as it would look: unknown fields and schema first, and only if those are
// fine the metadata, the CEL rules and the rules of core kinds. The object has
// the types of decoded JSON, with int64 for whole numbers, and no status.
func (k *Kind) Admit(obj map[string]any) []Error {
	errs := k.unknown(obj)
	defaulting.PruneNonNullableNullsWithoutDefaults(obj, k.root)
	defaulting.Default(obj, k.root)
	errs = append(errs, k.translate(obj, validation.ValidateCustomResource(nil, obj, k.validator))...)
	if len(errs) > 0 {
		return errs
	}
	accessor := &unstructured.Unstructured{Object: obj}
	validName := metavalidation.ValidateNameFunc(metavalidation.NameIsDNSSubdomain)
	switch k.GVK.Kind {
	case "Service", "Namespace":
		validName = metavalidation.NameIsDNSLabel
	case "ClusterTrustBundle":
		validName = func(name string, _ bool) []string { return content.IsPathSegmentName(name) }
	}
	errs = k.translate(obj, metavalidation.ValidateObjectMetaAccessor(accessor, k.Namespaced, validName, field.NewPath("metadata")))
	errs = append(errs, k.translate(obj, listtype.ValidateListSetsAndMaps(nil, k.root, obj))...)
	if rules := k.rules(); rules != nil {
		broken, _ := rules.Validate(context.Background(), nil, k.root, obj, nil, celconfig.RuntimeCELCostBudget)
		for _, e := range broken {
			errs = append(errs, k.ruleError(obj, e))
		}
	}
	if k.core != nil && len(errs) == 0 {
		errs = k.core(obj)
	}
	return errs
}

func (k *Kind) unknown(obj map[string]any) []Error {
	var errs []Error
	unknownFields(obj, k.root, "", &errs)
	if meta, ok := obj["metadata"].(map[string]any); ok {
		unknownFields(meta, metaKind().root, "metadata", &errs)
		for _, e := range metaKind().translate(meta, validation.ValidateCustomResource(nil, meta, metaKind().validator)) {
			e.Field = "metadata." + e.Field
			errs = append(errs, e)
		}
	}
	return errs
}

// unknownFields finds fields that the schema doesn't have. The root's metadata
// has a schema of its own.
func unknownFields(v any, s *structural.Structural, path string, errs *[]Error) {
	switch v := v.(type) {
	case []any:
		if s.Items == nil {
			return
		}
		for i, item := range v {
			unknownFields(item, s.Items, fmt.Sprintf("%s[%d]", path, i), errs)
		}
	case map[string]any:
		for _, name := range sortedKeys(v) {
			if path == "" && name == "metadata" {
				continue
			}
			at := strings.TrimPrefix(path+"."+name, ".")
			if p, ok := s.Properties[name]; ok {
				unknownFields(v[name], &p, at, errs)
				continue
			}
			if more := s.AdditionalProperties; more != nil {
				if more.Structural != nil {
					unknownFields(v[name], more.Structural, fmt.Sprintf("%s[%s]", path, name), errs)
				}
				continue
			}
			if !s.XPreserveUnknownFields && !s.XIntOrString && s.Type == "object" {
				*errs = append(*errs, Error{at, "is not a field that exists here", suggestion(name, slices.Collect(maps.Keys(s.Properties)))})
			}
		}
	}
}

// translate words the API server's errors.
func (k *Kind) translate(obj map[string]any, list field.ErrorList) []Error {
	var errs []Error
	seen := map[string]bool{}
	for _, e := range list {
		path := strings.TrimPrefix(strings.TrimPrefix(e.Field, "<nil>"), ".")
		if seen[path] {
			continue // the type is wrong, and so the pattern doesn't match either
		}
		seen[path] = true
		steps := Steps(path)
		s := k.at(steps)
		want := describe(s)
		switch e.Type {
		case field.ErrorTypeRequired:
			if path == "metadata.name" {
				want = k.wantName()
			}
			errs = append(errs, Error{path, "is missing", want})
		case field.ErrorTypeDuplicate:
			errs = append(errs, duplicate(path, e.BadValue))
		case field.ErrorTypeForbidden:
			errs = append(errs, Error{path, "is not allowed", strings.TrimPrefix(e.Detail, "not allowed on this type")})
		default:
			value, found := get(obj, steps)
			message := k.value(obj, steps) + " is not allowed"
			switch v := value.(type) {
			case []any:
				message = "has " + amount(int64(len(v)), "item", "items")
			case map[string]any:
				message = "has " + amount(int64(len(v)), "field", "fields")
			}
			if path == "metadata.name" {
				want = k.wantName()
			}
			if found && s != nil && !fits(value, s) {
				message = fmt.Sprintf("is %s (%s)", typeOf(value), k.value(obj, steps))
				if s.Type == "string" && scalar(value) {
					want += ", in quotes"
				}
			}
			if want == "" && !k.secret(steps) {
				want = e.Detail
			}
			errs = append(errs, Error{path, message, want})
		}
		if last := &errs[len(errs)-1]; last.Want == "" {
			last.Want = "leave it out"
		}
	}
	return errs
}

func (k *Kind) wantName() string {
	return "a name in lower case, such as my-" + strings.ToLower(k.GVK.Kind)
}

// duplicate is of an item that is in a list for the second time, or whose keys are.
func duplicate(path string, item any) Error {
	keys, ok := item.(map[string]any)
	if !ok {
		return Error{path, show(item) + " is there twice", "each value once"}
	}
	var parts []string
	for _, name := range sortedKeys(keys) {
		parts = append(parts, name+" "+show(keys[name]))
	}
	return Error{path, "is the second item with " + strings.Join(parts, ", "), "one item with it"}
}

// ruleError words a broken CEL rule: its message says what would be right.
func (k *Kind) ruleError(obj map[string]any, e *field.Error) Error {
	path := strings.TrimPrefix(strings.TrimPrefix(e.Field, "<nil>"), ".")
	message := "breaks a rule of " + k.GVK.Kind
	if v, ok := get(obj, Steps(path)); ok {
		if scalar(v) {
			message = k.value(obj, Steps(path)) + " " + message
		}
	}
	return Error{path, message, e.Detail}
}

// value shows the value at a path, unless it could be secret.
func (k *Kind) value(obj map[string]any, steps []Step) string {
	v, ok := get(obj, steps)
	if !ok || k.secret(steps) {
		return "the value"
	}
	return show(v)
}

func (k *Kind) secret(steps []Step) bool {
	return k.GVK.Kind == "Secret" && len(steps) > 0 && (steps[0].Name == "data" || steps[0].Name == "stringData")
}

func scalar(v any) bool {
	switch v.(type) {
	case nil, map[string]any, []any:
		return false
	}
	return true
}

func show(v any) string {
	switch v := v.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return fmt.Sprintf("a list of %d", len(v))
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "the value"
	}
	if len(text) > 80 {
		return string(text[:77]) + "..."
	}
	return string(text)
}

func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "empty"
	case string:
		return "text"
	case bool:
		return "a boolean"
	case int64:
		return "a whole number"
	case float64:
		if v == math.Trunc(v) {
			return "a whole number"
		}
		return "a number with a fraction"
	case []any:
		return "a list"
	}
	return "an object"
}

func fits(v any, s *structural.Structural) bool {
	if s.XIntOrString || s.Type == "" || v == nil {
		return true
	}
	switch v.(type) {
	case string:
		return s.Type == "string"
	case bool:
		return s.Type == "boolean"
	case int64:
		return s.Type == "integer" || s.Type == "number"
	case float64:
		return s.Type == "number"
	case []any:
		return s.Type == "array"
	}
	return s.Type == "object"
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
