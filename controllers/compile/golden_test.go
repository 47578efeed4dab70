package compile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/headgate/headgate/controllers/objects"
)

var update = flag.Bool("update", false, "rewrite testdata/*/want.txt")

// TestGolden compiles every folder of testdata: its in.yaml on top of
// defaults.yaml, unless its options say bare. want.txt is what comes out, at
// once, shuffled and one object at a time.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*/in.yaml")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	defaults := decodeFile(t, "testdata/defaults.yaml")
	for _, path := range cases {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			opts, bare := readOptions(t, dir)
			byRef := map[objects.Ref]objects.Object{}
			var order []objects.Ref
			put := func(all []objects.Object) {
				for _, obj := range all {
					ref := objects.RefOf(obj)
					if ref.Kind == "" {
						t.Fatalf("%T is not a kind that Headgate reads", obj)
					}
					if _, again := byRef[ref]; !again {
						order = append(order, ref)
					}
					byRef[ref] = obj
				}
			}
			if !bare {
				put(defaults)
			}
			put(decodeFile(t, path))

			set := objects.NewSet()
			for _, ref := range order {
				set.Put(byRef[ref])
			}
			whole := Compile(nil, set, nil, opts)
			got := dump(whole)
			compareGolden(t, filepath.Join(dir, "want.txt"), got)

			random := rand.New(rand.NewPCG(1, 2))
			for range 3 {
				random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
				shuffled := objects.NewSet()
				var step *Result
				for _, ref := range order {
					step = Compile(step, shuffled, []objects.Ref{shuffled.Put(byRef[ref])}, opts)
				}
				sameResult(t, "one object at a time", whole, step)
			}
		})
	}
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run go test -update", err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s differs (-want +got); if it is right, run go test -update:\n%s", path, diff)
	}
}

// readOptions reads a case's options.yaml.
func readOptions(t *testing.T, dir string) (opts Options, bare bool) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "options.yaml"))
	if os.IsNotExist(err) {
		return Options{Addresses: []string{"192.0.2.1"}}, false
	}
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Options `json:",inline"`
		Bare    bool `json:"bare"`
	}
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		t.Fatal(err)
	}
	return file.Options, file.Bare
}

var decoder = serializer.NewCodecFactory(objects.Scheme(), serializer.EnableStrict).UniversalDeserializer()

func decodeFile(t testing.TB, path string) []objects.Object {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(keyPairs.Replace(string(text)))
	all, err := decode(text)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return all
}

// keyPairs stand in the cases as CERT_1, KEY_1 and so on: certificates and
// private keys, PEM in base64 as a Secret has them. TEXT_1 is CERT_1 as text.
var keyPairs = func() *strings.Replacer {
	var pairs []string
	for i := range 2 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
		if err != nil {
			panic(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"shop.example.com"}}
		certificate, err := x509.CreateCertificate(cryptorand.Reader, template, template, key.Public(), key)
		if err != nil {
			panic(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			panic(err)
		}
		for name, block := range map[string]*pem.Block{
			"CERT": {Type: "CERTIFICATE", Bytes: certificate}, "KEY": {Type: "PRIVATE KEY", Bytes: private},
		} {
			pairs = append(pairs, fmt.Sprintf("%s_%d", name, i+1), base64.StdEncoding.EncodeToString(pem.EncodeToMemory(block)))
			if name == "CERT" {
				pairs = append(pairs, fmt.Sprintf("TEXT_%d", i+1), strconv.Quote(string(pem.EncodeToMemory(block))))
			}
		}
	}
	return strings.NewReplacer(pairs...)
}()

// keyPairData is a Secret's with the first of them.
var keyPairData = func() map[string][]byte {
	data := map[string][]byte{}
	for entry, name := range map[string]string{"tls.crt": "CERT_1", "tls.key": "KEY_1"} {
		text, err := base64.StdEncoding.DecodeString(keyPairs.Replace(name))
		if err != nil {
			panic(err)
		}
		data[entry] = text
	}
	return data
}()

// decode reads YAML documents. To keep the cases short, the apiVersion follows
// from the kind where that is missing, and the namespace is "default".
func decode(text []byte) ([]objects.Object, error) {
	var all []objects.Object
	documents := utilyaml.NewYAMLReader(newReader(text))
	for {
		document, err := documents.Read()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if err := yaml.Unmarshal(document, &head); err != nil {
			return nil, err
		}
		if head.Kind == "" {
			continue
		}
		var gvk *schema.GroupVersionKind
		if head.APIVersion == "" {
			for _, k := range objects.Kinds {
				if k.Name == head.Kind {
					kinds, _, err := objects.Scheme().ObjectKinds(k.Object)
					if err != nil {
						return nil, err
					}
					gvk = &kinds[0]
				}
			}
			if gvk == nil {
				return nil, fmt.Errorf("unknown kind %q", head.Kind)
			}
		}
		var raw map[string]any
		if err := yaml.Unmarshal(document, &raw); err != nil {
			return nil, err
		}
		if gvk != nil {
			raw["apiVersion"] = gvk.GroupVersion().String()
		}
		if document, err = yaml.Marshal(raw); err != nil {
			return nil, err
		}
		obj, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, document)
		}
		o := obj.(interface {
			runtime.Object
			objects.Object
		})
		if k, ok := kindNamed(head.Kind); ok && !k.ClusterScoped && o.GetNamespace() == "" {
			o.SetNamespace("default")
		}
		all = append(all, o)
	}
}

func kindNamed(name string) (objects.Kind, bool) {
	for _, k := range objects.Kinds {
		if k.Name == name {
			return k, true
		}
	}
	return objects.Kind{}, false
}
