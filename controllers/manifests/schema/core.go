package schema

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/headgate/headgate/controllers/objects"
)

// coreKinds are the kinds that the API server knows without a CRD, and those
// whose CRDs are others' to install.
var coreKinds = []schema.GroupVersionKind{
	{Version: "v1", Kind: "Namespace"},
	{Version: "v1", Kind: "Service"},
	{Version: "v1", Kind: "Pod"},
	{Version: "v1", Kind: "Secret"},
	{Version: "v1", Kind: "ConfigMap"},
	{Group: certificatesv1.GroupName, Version: "v1", Kind: "ClusterTrustBundle"},
	{Group: certificatesv1.GroupName, Version: "v1beta1", Kind: "ClusterTrustBundle"},
	{Group: discoveryv1.GroupName, Version: "v1", Kind: "EndpointSlice"},
	{Group: objects.MulticlusterGroup, Version: "v1beta1", Kind: "ServiceImport"},
	{Group: objects.MulticlusterGroup, Version: "v1alpha1", Kind: "ServiceImport"},
}

// coreFile makes the schema of a core kind from its Go type, and adds what the
// API server's validation demands of the fields that Headgate reads.
func coreFile(gvk schema.GroupVersionKind) *File {
	if !slices.Contains(coreKinds, gvk) {
		return nil
	}
	f := &File{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespaced: true}
	switch gvk.Kind {
	case "Namespace":
		f.Schema, f.Namespaced = schemaOf(reflect.TypeFor[corev1.Namespace]()), false
	case "Pod":
		// Nothing but metadata is read, so nothing else is judged.
		f.Schema = schemaOf(reflect.TypeFor[objects.Pod]())
		f.Schema.XPreserveUnknownFields = ptr.To(true)
	case "Secret":
		f.Schema = schemaOf(reflect.TypeFor[corev1.Secret]())
		setProperty(f.Schema, "type", func(p *apiext.JSONSchemaProps) { p.Default = raw(`"Opaque"`) })
	case "ConfigMap":
		f.Schema = schemaOf(reflect.TypeFor[corev1.ConfigMap]())
	case "ClusterTrustBundle":
		f.Schema, f.Namespaced = schemaOf(reflect.TypeFor[certificatesv1.ClusterTrustBundle]()), false
		f.Schema.Required = []string{"spec"}
		setProperty(f.Schema, "spec", func(spec *apiext.JSONSchemaProps) {
			spec.Required = []string{"trustBundle"}
			setProperty(spec, "trustBundle", func(p *apiext.JSONSchemaProps) { p.MinLength = ptr.To(int64(1)) })
		})
	case "Service":
		f.Schema = schemaOf(reflect.TypeFor[corev1.Service]())
		setProperty(f.Schema, "spec", serviceSpec)
	case "EndpointSlice":
		f.Schema = schemaOf(reflect.TypeFor[discoveryv1.EndpointSlice]())
		endpointSlice(f.Schema)
	case "ServiceImport":
		f.Schema = schemaOf(reflect.TypeFor[objects.ServiceImport]())
		setProperty(f.Schema, "spec", serviceImportSpec)
	}
	// As in a CRD: metadata has a schema of its own, see metaKind.
	f.Schema.Properties["metadata"] = apiext.JSONSchemaProps{Type: "object"}
	delete(f.Schema.Properties, "status")
	return f
}

func serviceSpec(spec *apiext.JSONSchemaProps) {
	setProperty(spec, "type", func(p *apiext.JSONSchemaProps) {
		p.Default = raw(`"ClusterIP"`)
		p.Enum = enum("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
	})
	setProperty(spec, "ports", func(ports *apiext.JSONSchemaProps) {
		item := ports.Items.Schema
		item.Required = []string{"port"}
		setProperty(item, "port", portNumber)
		setProperty(item, "protocol", protocol)
	})
}

func serviceImportSpec(spec *apiext.JSONSchemaProps) {
	spec.Required = []string{"ports", "type"}
	setProperty(spec, "type", func(p *apiext.JSONSchemaProps) { p.Enum = enum("ClusterSetIP", "Headless") })
	setProperty(spec, "ips", func(p *apiext.JSONSchemaProps) { p.MaxItems = ptr.To[int64](2) })
	setProperty(spec, "ports", func(ports *apiext.JSONSchemaProps) {
		item := ports.Items.Schema
		item.Required = []string{"port"}
		setProperty(item, "port", portNumber)
		setProperty(item, "protocol", protocol)
	})
}

func endpointSlice(slice *apiext.JSONSchemaProps) {
	slice.Required = []string{"addressType", "endpoints"}
	setProperty(slice, "addressType", func(p *apiext.JSONSchemaProps) { p.Enum = enum("IPv4", "IPv6", "FQDN") })
	setProperty(slice, "endpoints", func(p *apiext.JSONSchemaProps) {
		p.MaxItems = ptr.To[int64](1000)
		item := p.Items.Schema
		item.Required = []string{"addresses"}
		setProperty(item, "addresses", func(p *apiext.JSONSchemaProps) {
			p.MinItems, p.MaxItems = ptr.To[int64](1), ptr.To[int64](100)
		})
	})
	setProperty(slice, "ports", func(p *apiext.JSONSchemaProps) {
		item := p.Items.Schema
		setProperty(item, "name", func(p *apiext.JSONSchemaProps) { p.Default = raw(`""`) })
		setProperty(item, "port", portNumber)
		setProperty(item, "protocol", protocol)
	})
}

func portNumber(p *apiext.JSONSchemaProps) {
	p.Minimum, p.Maximum = ptr.To(1.0), ptr.To(65535.0)
}

func protocol(p *apiext.JSONSchemaProps) {
	p.Default, p.Enum = raw(`"TCP"`), enum("TCP", "UDP", "SCTP")
}

func setProperty(s *apiext.JSONSchemaProps, name string, set func(*apiext.JSONSchemaProps)) {
	p, ok := s.Properties[name]
	if !ok {
		panic("schema: the Go type has no field " + name)
	}
	set(&p)
	s.Properties[name] = p
}

func raw(text string) *apiext.JSON { return &apiext.JSON{Raw: []byte(text)} }

func enum(values ...string) []apiext.JSON {
	var list []apiext.JSON
	for _, v := range values {
		list = append(list, *raw(`"` + v + `"`))
	}
	return list
}

// metaKind has the schema of metadata, which CRDs leave to the API server.
var metaKind = sync.OnceValue(func() *Kind {
	k, err := build(&File{Kind: "ObjectMeta", Schema: schemaOf(reflect.TypeFor[metav1.ObjectMeta]())})
	if err != nil {
		panic(err) // the same on every run
	}
	return k
})

// schemaOf returns the structural schema of a Go API type.
func schemaOf(t reflect.Type) *apiext.JSONSchemaProps {
	switch t {
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]():
		return &apiext.JSONSchemaProps{Type: "string", Format: "date-time", Nullable: true}
	case reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[resource.Quantity]():
		return &apiext.JSONSchemaProps{XIntOrString: true}
	case reflect.TypeFor[runtime.RawExtension](), reflect.TypeFor[metav1.FieldsV1]():
		return &apiext.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.String:
		return &apiext.JSONSchemaProps{Type: "string"}
	case reflect.Bool:
		return &apiext.JSONSchemaProps{Type: "boolean"}
	case reflect.Int32:
		return &apiext.JSONSchemaProps{Type: "integer", Format: "int32"}
	case reflect.Int, reflect.Int64:
		return &apiext.JSONSchemaProps{Type: "integer", Format: "int64"}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return &apiext.JSONSchemaProps{Type: "string"} // base64: see base64Errors
		}
		return &apiext.JSONSchemaProps{Type: "array", Items: &apiext.JSONSchemaPropsOrArray{Schema: schemaOf(t.Elem())}}
	case reflect.Map:
		return &apiext.JSONSchemaProps{
			Type:                 "object",
			AdditionalProperties: &apiext.JSONSchemaPropsOrBool{Allows: true, Schema: schemaOf(t.Elem())},
		}
	case reflect.Struct:
		s := &apiext.JSONSchemaProps{Type: "object", Properties: map[string]apiext.JSONSchemaProps{}}
		addFields(s, t)
		return s
	}
	panic(fmt.Sprintf("schema: no schema for %s", t))
}

func addFields(s *apiext.JSONSchemaProps, t reflect.Type) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-" || !field.IsExported():
		case name == "":
			addFields(s, field.Type) // inline
		default:
			s.Properties[name] = *schemaOf(field.Type)
		}
	}
}

// coreRules are the API server's own rules for core kinds, by kind, as far as
// Headgate reads what they are about. They run on valid, defaulted objects.
var coreRules = map[string]func(obj map[string]any) []Error{
	"Service":            serviceRules,
	"Secret":             secretRules,
	"ClusterTrustBundle": trustBundleRules,
	"ConfigMap":          func(obj map[string]any) []Error { return base64Errors(obj, "binaryData", "data") },
}

// trustBundleRules are that a bundle which is linked to a signer has the signer's
// name before its own, and another one no colon.
func trustBundleRules(obj map[string]any) []Error {
	metadata, _ := obj["metadata"].(map[string]any)
	spec, _ := obj["spec"].(map[string]any)
	name, _ := metadata["name"].(string)
	signer, _ := spec["signerName"].(string)
	if prefix := strings.ReplaceAll(signer, "/", ":") + ":"; signer != "" && !strings.HasPrefix(name, prefix) {
		return []Error{{"metadata.name", fmt.Sprintf("%q is no name of a bundle of signer %s", name, signer), prefix + "NAME"}}
	}
	if signer == "" && strings.Contains(name, ":") {
		return []Error{{"metadata.name", fmt.Sprintf("%q has a colon, and the bundle no signerName", name), "a name without a colon"}}
	}
	return nil
}

func serviceRules(obj map[string]any) []Error {
	spec, _ := obj["spec"].(map[string]any)
	var errs []Error
	if spec["type"] == "ExternalName" {
		if name, _ := spec["externalName"].(string); name == "" {
			errs = append(errs, Error{"spec.externalName", "is missing", "the DNS name of the service, such as api.example.com"})
		}
	}
	ports, _ := spec["ports"].([]any)
	seen := map[string]int{}
	for i, p := range ports {
		port := p.(map[string]any)
		if port["targetPort"] == nil {
			port["targetPort"] = port["port"]
		}
		name, _ := port["name"].(string)
		path := fmt.Sprintf("spec.ports[%d].name", i)
		if name == "" && len(ports) > 1 {
			errs = append(errs, Error{path, "is missing", "a name for each port, as there is more than one"})
			continue
		}
		if first, dup := seen[name]; dup {
			errs = append(errs, Error{path, fmt.Sprintf("%q is also the name of spec.ports[%d]", name, first), "a name that no other port of the Service has"})
		}
		seen[name] = i
	}
	return errs
}

func secretRules(obj map[string]any) []Error {
	errs := base64Errors(obj, "data", "stringData")
	data, _ := obj["data"].(map[string]any)
	if data == nil {
		data = map[string]any{}
	}
	plain, _ := obj["stringData"].(map[string]any)
	for _, key := range sortedKeys(plain) {
		text, _ := plain[key].(string)
		data[key] = base64.StdEncoding.EncodeToString([]byte(text))
	}
	delete(obj, "stringData")
	if len(data) > 0 {
		obj["data"] = data
	}
	if obj["type"] == string(corev1.SecretTypeTLS) {
		for _, key := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
			if _, ok := data[key]; !ok {
				errs = append(errs, Error{"data[" + key + "]", "is missing", "a Secret of type kubernetes.io/tls has tls.crt and tls.key"})
			}
		}
	}
	return errs
}

// base64Errors finds values under name that aren't base64; plain is where plain
// ones belong. The values themselves are not shown: they may be secret.
func base64Errors(obj map[string]any, name, plain string) []Error {
	values, _ := obj[name].(map[string]any)
	var errs []Error
	for _, key := range sortedKeys(values) {
		text, _ := values[key].(string)
		if _, err := base64.StdEncoding.DecodeString(text); err != nil {
			errs = append(errs, Error{name + "[" + key + "]", "is not base64", "the value in base64, or the plain value under " + plain})
		}
	}
	return errs
}
