// The Go client against a cluster, in protobuf: typed objects, lists in pages, watches, informers, patches, metadata alone.
//
// Its only argument is an image with a shell. The cluster is that of $KUBECONFIG. Everything that is listed in protobuf is
// listed once more in JSON, as of the same moment, and must be the same.
package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
)

const (
	namespace = "go"
	patience  = 2 * time.Minute
	protobuf  = "application/vnd.kubernetes.protobuf"
)

var ctx = context.Background()

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(holds bool, format string, args ...interface{}) {
	if !holds {
		panic(fmt.Sprintf(format, args...))
	}
}

// onlyProtobuf fails requests that are answered in anything else.
type onlyProtobuf struct{ http.RoundTripper }

func (t onlyProtobuf) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(request)
	if err == nil && !strings.HasPrefix(response.Header.Get("Content-Type"), protobuf) {
		return nil, fmt.Errorf("%s %s: answered as %s", request.Method, request.URL, response.Header.Get("Content-Type"))
	}
	return response, err
}

func main() {
	inJSON, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	must(err)
	inJSON.QPS, inJSON.Burst = 1000, 1000
	config := rest.CopyConfig(inJSON)
	config.ContentType = protobuf
	config.AcceptContentTypes = protobuf + ",application/json"
	config.Wrap(func(inner http.RoundTripper) http.RoundTripper { return onlyProtobuf{inner} })
	client := kubernetes.NewForConfigOrDie(config)

	_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	must(err)
	objects(client)
	odd(client)
	pages(client)
	workload(client, os.Args[1])
	informer(client)
	onlyMetadata(config)
	reviews(client)
	sameInJSON(config, inJSON)
	fmt.Println("all well")
}

// objects goes through the life of a ConfigMap, and watches it.
func objects(client kubernetes.Interface) {
	maps := client.CoreV1().ConfigMaps(namespace)
	wanted := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "map", Labels: map[string]string{"a": "b", "empty": ""}},
		Data:       map[string]string{"a": "1", "none": ""},
		BinaryData: map[string][]byte{"b": {0, 255, 128}},
	}
	made, err := maps.Create(ctx, wanted, metav1.CreateOptions{})
	must(err)
	check(made.UID != "" && made.ResourceVersion != "" && !made.CreationTimestamp.IsZero(), "%+v", made)
	check(equality.Semantic.DeepEqual(made.Data, wanted.Data) && bytes.Equal(made.BinaryData["b"], wanted.BinaryData["b"]), "%+v", made)
	_, err = maps.Create(ctx, wanted, metav1.CreateOptions{})
	check(errors.IsAlreadyExists(err), "%v", err)
	_, err = maps.Get(ctx, "none", metav1.GetOptions{})
	check(errors.IsNotFound(err), "%v", err)
	got, err := maps.Get(ctx, "map", metav1.GetOptions{})
	must(err)
	check(equality.Semantic.DeepEqual(got, made), diff.ObjectReflectDiff(got, made))

	events, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: made.ResourceVersion, FieldSelector: "metadata.name=map"})
	must(err)
	patched, err := maps.Patch(ctx, "map", types.StrategicMergePatchType, []byte(`{"data":{"a":"2"}}`), metav1.PatchOptions{})
	must(err)
	check(patched.Data["a"] == "2" && patched.Data["none"] == "", "%+v", patched)
	patched.Data["c"] = "3"
	updated, err := maps.Update(ctx, patched, metav1.UpdateOptions{})
	must(err)
	_, err = maps.Update(ctx, made, metav1.UpdateOptions{})
	check(errors.IsConflict(err), "%v", err)
	applied, err := maps.Patch(ctx, "map", types.ApplyPatchType, []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"map"},"data":{"applied":"yes"}}`), metav1.PatchOptions{FieldManager: "go"})
	must(err)
	check(applied.Data["applied"] == "yes" && len(applied.ManagedFields) > 1, "%+v", applied)
	must(maps.Delete(ctx, "map", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(made.UID))}))
	for _, expected := range []struct {
		event watch.EventType
		data  string
	}{{watch.Modified, "2"}, {watch.Modified, "2"}, {watch.Modified, "2"}, {watch.Deleted, "2"}} {
		event := next(events)
		found, isMap := event.Object.(*corev1.ConfigMap)
		check(event.Type == expected.event && isMap && found.Data["a"] == expected.data, "%+v", event)
		if event.Type == watch.Modified && found.ResourceVersion == updated.ResourceVersion {
			check(equality.Semantic.DeepEqual(found, updated), diff.ObjectReflectDiff(found, updated))
		}
	}
	events.Stop()
}

func next(events watch.Interface) watch.Event {
	select {
	case event, open := <-events.ResultChan():
		check(open, "the watch ended too early")
		return event
	case <-time.After(patience):
		panic("no event came")
	}
}

// odd writes and reads types that are not what they look like: times, quantities, bytes, numbers or strings, JSON in bytes.
func odd(client kubernetes.Interface) {
	now := metav1.NewMicroTime(time.Date(2024, 2, 29, 23, 59, 59, 123456000, time.UTC))
	lease, err := client.CoordinationV1().Leases(namespace).Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: "lease"},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &now},
	}, metav1.CreateOptions{})
	must(err)
	check(lease.Spec.RenewTime.Time.Equal(now.Time), "%v", lease.Spec.RenewTime)
	revision, err := client.AppsV1().ControllerRevisions(namespace).Create(ctx, &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Name: "revision"},
		Data:       runtime.RawExtension{Raw: []byte(`{"spec":{"a":[1,"ä"]}}`)},
		Revision:   -1 << 40,
	}, metav1.CreateOptions{})
	if err == nil {
		panic("a negative revision was taken")
	}
	revision, err = client.AppsV1().ControllerRevisions(namespace).Create(ctx, &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Name: "revision"},
		Data:       runtime.RawExtension{Raw: []byte(`{"spec":{"a":[1,"ä"]}}`)},
		Revision:   1 << 40,
	}, metav1.CreateOptions{})
	must(err)
	check(string(revision.Data.Raw) == `{"spec":{"a":[1,"ä"]}}` && revision.Revision == 1<<40, "%+v", revision)
	secret, err := client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "secret"}, StringData: map[string]string{"k": "v"},
	}, metav1.CreateOptions{})
	must(err)
	check(string(secret.Data["k"]) == "v" && secret.Type == corev1.SecretTypeOpaque, "%+v", secret)
	quota, err := client.CoreV1().ResourceQuotas(namespace).Create(ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "quota"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"pods": resource.MustParse("1k")}},
	}, metav1.CreateOptions{})
	must(err)
	pods := quota.Spec.Hard["pods"]
	check(pods.Value() == 1000, "%+v", quota)
	path := networkingv1.PathTypePrefix
	_, err = client.NetworkingV1().Ingresses(namespace).Create(ctx, &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: "ingress"},
		Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{{
			Host: "example.com",
			IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
				Paths: []networkingv1.HTTPIngressPath{{
					Path: "/", PathType: &path,
					Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
						Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}}},
				}},
			}},
		}}},
	}, metav1.CreateOptions{})
	must(err)
}

// pages lists in pages of an odd size.
func pages(client kubernetes.Interface) {
	maps := client.CoreV1().ConfigMaps(namespace)
	for i := 0; i < 23; i++ {
		_, err := maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "page-", Labels: map[string]string{"page": "yes"}},
			Data:       map[string]string{"k": strings.Repeat("x", 1<<uint(i%17))},
		}, metav1.CreateOptions{})
		must(err)
	}
	options, seen, requests := metav1.ListOptions{LabelSelector: "page=yes", Limit: 5}, map[string]bool{}, 0
	for {
		list, err := maps.List(ctx, options)
		must(err)
		requests++
		for _, item := range list.Items {
			seen[item.Name] = true
		}
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	check(len(seen) == 23 && requests == 5, "%d objects in %d pages", len(seen), requests)
	must(maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "page=yes"}))
	list, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "page=yes"})
	must(err)
	check(len(list.Items) == 0, "%d are left", len(list.Items))
}

// workload runs a Deployment, waits for its pods by watching them, and scales it.
func workload(client kubernetes.Interface, image string) {
	replicas, grace, surge := int32(2), int64(0), intstr.FromString("50%")
	labels := map[string]string{"app": "web"}
	deployments := client.AppsV1().Deployments(namespace)
	_, err := deployments.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: &grace,
					Containers: []corev1.Container{{
						Name: "main", Image: image, Command: []string{"sleep", "100000"},
						Env: []corev1.EnvVar{{Name: "POD", ValueFrom: &corev1.EnvVarSource{
							FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}},
						Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("10m")}},
					}},
					Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
				},
			},
		},
	}, metav1.CreateOptions{})
	must(err)
	pods := client.CoreV1().Pods(namespace)
	running := map[string]bool{}
	events, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: "app=web"})
	must(err)
	for len(running) < 2 {
		event := next(events)
		pod, isPod := event.Object.(*corev1.Pod)
		check(isPod, "%+v", event)
		if pod.Status.Phase == corev1.PodRunning {
			check(pod.Status.PodIP != "" && pod.Status.StartTime != nil, "%+v", pod.Status)
			running[pod.Name] = true
		}
	}
	events.Stop()
	// The deployment's status changes meanwhile.
	must(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		scale, err := deployments.GetScale(ctx, "web", metav1.GetOptions{})
		must(err)
		check(scale.Spec.Replicas == 2 && scale.Status.Selector == "app=web", "%+v", scale)
		scale, err = deployments.UpdateScale(ctx, "web", &autoscalingv1.Scale{
			ObjectMeta: scale.ObjectMeta, Spec: autoscalingv1.ScaleSpec{Replicas: 1}}, metav1.UpdateOptions{})
		check(err != nil || scale.Spec.Replicas == 1, "%+v", scale)
		return err
	}))
	for name := range running {
		_, err = pods.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"a":"b"}}}`), metav1.PatchOptions{})
		check(err == nil || errors.IsNotFound(err), "%v", err)
	}
}

// informer holds a cache that lists and watches, as every controller in Go does.
func informer(client kubernetes.Interface) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	maps := factory.Core().V1().ConfigMaps()
	deleted := make(chan string, 100)
	maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(object interface{}) {
		deleted <- object.(*corev1.ConfigMap).Name
	}})
	stop := make(chan struct{})
	defer close(stop)
	factory.Start(stop)
	check(cache.WaitForCacheSync(stop, maps.Informer().HasSynced), "the informer has nothing")
	_, err := client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "informed"}}, metav1.CreateOptions{})
	must(err)
	must(client.CoreV1().ConfigMaps(namespace).Delete(ctx, "informed", metav1.DeleteOptions{}))
	for {
		select {
		case name := <-deleted:
			if name == "informed" {
				return
			}
		case <-time.After(patience):
			panic("the informer was told nothing")
		}
	}
}

// onlyMetadata lists and watches metadata alone.
func onlyMetadata(config *rest.Config) {
	// This client overrides what it is given, and prefers protobuf.
	resources := metadata.NewForConfigOrDie(config).Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}).Namespace(namespace)
	list, err := resources.List(ctx, metav1.ListOptions{})
	must(err)
	check(len(list.Items) > 0 && list.ResourceVersion != "", "%+v", list)
	events, err := resources.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	must(err)
	must(resources.Delete(ctx, "secret", metav1.DeleteOptions{}))
	event := next(events)
	object, isMetadata := event.Object.(*metav1.PartialObjectMetadata)
	check(isMetadata && event.Type == watch.Deleted && object.Name == "secret", "%+v", event)
	events.Stop()
}

// reviews asks who may do what, and for a token.
func reviews(client kubernetes.Interface) {
	review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "pods"}},
	}, metav1.CreateOptions{})
	must(err)
	check(review.Status.Allowed, "%+v", review)
	token, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(err)
	check(token.Status.Token != "" && token.Status.ExpirationTimestamp.After(time.Now()), "%+v", token)
}

// sameInJSON lists all that there is of many kinds in protobuf and in JSON, and compares.
func sameInJSON(config, inJSON *rest.Config) {
	lists := map[schema.GroupVersion]map[string]runtime.Object{
		{Version: "v1"}: {
			"configmaps": &corev1.ConfigMapList{}, "endpoints": &corev1.EndpointsList{}, "events": &corev1.EventList{},
			"namespaces": &corev1.NamespaceList{}, "nodes": &corev1.NodeList{}, "pods": &corev1.PodList{},
			"resourcequotas": &corev1.ResourceQuotaList{}, "secrets": &corev1.SecretList{},
			"serviceaccounts": &corev1.ServiceAccountList{}, "services": &corev1.ServiceList{},
		},
		{Group: "apps", Version: "v1"}: {
			"controllerrevisions": &appsv1.ControllerRevisionList{}, "deployments": &appsv1.DeploymentList{},
			"replicasets": &appsv1.ReplicaSetList{},
		},
		{Group: "coordination.k8s.io", Version: "v1"}: {"leases": &coordinationv1.LeaseList{}},
		{Group: "networking.k8s.io", Version: "v1"}:   {"ingresses": &networkingv1.IngressList{}},
	}
	seen := 0
	for version, kinds := range lists {
		one, other := restClient(config, version), restClient(inJSON, version)
		for name, list := range kinds {
			must(one.Get().Resource(name).Do(ctx).Into(list))
			metadata, err := meta.ListAccessor(list)
			must(err)
			again := list.DeepCopyObject()
			must(other.Get().Resource(name).Param("resourceVersion", metadata.GetResourceVersion()).
				Param("resourceVersionMatch", "Exact").Do(ctx).Into(again))
			if meta.LenList(list) > 0 {
				seen++
			}
			check(equality.Semantic.DeepEqual(list, again), "%s: %s", name, diff.ObjectReflectDiff(list, again))
		}
	}
	check(seen > 10, "there is something of %d kinds only", seen)
}

func restClient(config *rest.Config, version schema.GroupVersion) rest.Interface {
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &version, "/apis"
	if version.Group == "" {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	client, err := rest.RESTClientFor(config)
	must(err)
	return client
}
