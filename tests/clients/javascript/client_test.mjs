// The JavaScript client against a cluster: objects, patches, an informer and a watch that resumes, logs, exec,
// deployments. Its only argument is an image with a shell. The cluster is that of $KUBECONFIG.

import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import * as k8s from '@kubernetes/client-node';

const image = process.argv[2];
const namespace = 'javascript';
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);

// The Status with which a call must be refused.
async function refused(code, reason, call) {
  const error = await call.then(() => assert.fail('it was not refused'), (error) => error);
  assert.equal(error.code, code, String(error));
  const status = typeof error.body === 'string' ? JSON.parse(error.body) : error.body;
  assert.equal(status.reason, reason);
  return status;
}

function pod(name, ...command) {
  return {
    metadata: { name, labels: { app: name } },
    spec: { terminationGracePeriodSeconds: 0, containers: [{ name: 'main', image, command }] },
  };
}

// Resolves with the object of the first event that `wanted` likes.
function until(path, query, wanted) {
  const watch = new k8s.Watch(config);
  return new Promise((resolve, reject) => {
    let controller;
    let found = false;
    watch.watch(path, query, (type, object) => {
      if (found || !wanted(type, object)) return;
      found = true;
      controller?.abort();
      resolve(object);
    }, (error) => { if (!found) reject(error ?? new Error('the watch ended too early')); })
      .then((started) => { controller = started; if (found) started.abort(); }, reject);
  });
}

async function objects() {
  await core.createNamespace({ body: { metadata: { name: namespace } } });
  const early = await core.createNamespacedPod({ namespace, body: pod('early', 'sleep', '100000') });
  assert.equal(early.spec.serviceAccountName, 'default');

  const body = { metadata: { name: 'map' }, data: { a: '1' } };
  const made = await core.createNamespacedConfigMap({ namespace, body });
  assert.ok(made.metadata.creationTimestamp instanceof Date);
  await refused(409, 'AlreadyExists', core.createNamespacedConfigMap({ namespace, body }));
  await core.replaceNamespacedConfigMap({ name: 'map', namespace, body: { ...made, data: { a: '2' } } });
  await refused(409, 'Conflict', core.replaceNamespacedConfigMap({ name: 'map', namespace, body: made }));
  const missing = await refused(404, 'NotFound', core.readNamespacedSecret({ name: 'none', namespace }));
  assert.equal(missing.message, 'secrets "none" not found');
  const invalid = { metadata: { name: 'No_Name' } };
  await refused(422, 'Invalid', core.createNamespacedConfigMap({ namespace, body: invalid }));
  const secret = { metadata: { name: 'secret' }, stringData: { word: 'open' } };
  const stored = await core.createNamespacedSecret({ namespace, body: secret });
  assert.deepEqual(stored.data, { word: Buffer.from('open').toString('base64') });
}

async function patches() {
  const patch = (strategy, body, more = {}) => core.patchNamespacedConfigMap(
    { name: 'map', namespace, body, ...more }, k8s.setHeaderOptions('Content-Type', strategy));
  const { JsonPatch, MergePatch, StrategicMergePatch, ServerSideApply } = k8s.PatchStrategy;
  await patch(JsonPatch, [{ op: 'add', path: '/data/j', value: '1' }]);
  await patch(MergePatch, { data: { m: '1', j: null } });
  await patch(StrategicMergePatch, { data: { s: '1' } });
  const applied = await patch(
    ServerSideApply,
    { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'map' }, data: { o: '1' } },
    { fieldManager: 'tests' });
  assert.deepEqual(applied.data, { a: '2', m: '1', s: '1', o: '1' });
  const generic = k8s.KubernetesObjectApi.makeApiClient(config);
  const read = await generic.read({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'map', namespace } });
  assert.deepEqual(read.data, applied.data);
}

async function watches() {
  // An informer sees what is there and what comes.
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const informer = k8s.makeInformer(config, path, () => core.listNamespacedConfigMap({ namespace }));
  const seen = [];
  const complete = new Promise((resolve, reject) => {
    for (const event of ['add', 'update', 'delete']) {
      informer.on(event, (object) => {
        if (!object.metadata.name.startsWith('seen')) return;
        seen.push(`${event} ${object.metadata.name}`);
        if (event === 'delete') resolve();
      });
    }
    informer.on('error', reject);
  });
  await informer.start();
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'seen' }, data: {} } });
  await core.patchNamespacedConfigMap(
    { name: 'seen', namespace, body: { data: { n: '1' } } },
    k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch));
  await core.deleteNamespacedConfigMap({ name: 'seen', namespace });
  await complete;
  await informer.stop();
  assert.deepEqual(seen, ['add seen', 'update seen', 'delete seen']);

  // A watch that takes up where a list was.
  const { metadata } = await core.listNamespacedConfigMap({ namespace, limit: 1 });
  assert.ok(metadata._continue);
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'later' } } });
  const types = [];
  await until(path, { resourceVersion: metadata.resourceVersion }, (type, object) => {
    types.push(`${type} ${object.metadata.name}`);
    return true;
  });
  assert.deepEqual(types, ['ADDED later']);
  await core.deleteCollectionNamespacedConfigMap({ namespace, fieldSelector: 'metadata.name=later' });
  await refused(404, 'NotFound', core.readNamespacedConfigMap({ name: 'later', namespace }));
}

async function pods() {
  const script = 'for i in 1 2 3; do echo line $i; done; exec sleep 100000';
  await core.createNamespacedPod({ namespace, body: pod('talker', 'sh', '-c', script) });
  await until(`/api/v1/namespaces/${namespace}/pods`, { fieldSelector: 'metadata.name=talker' },
    (_, object) => object.status.phase === 'Running');
  assert.equal(await core.readNamespacedPodLog({ name: 'talker', namespace, tailLines: 1 }), 'line 3\n');
  // Following ends when it has been enough.
  const followed = new PassThrough();
  const log = await new k8s.Log(config).log(namespace, 'talker', 'main', followed, { follow: true });
  let text = '';
  for await (const chunk of followed) {
    text += chunk;
    if (text.split('\n').length > 3) break;
  }
  log.abort();
  assert.equal(text, 'line 1\nline 2\nline 3\n');

  const exec = new k8s.Exec(config);
  const run = (command, stdin) => new Promise((resolve, reject) => {
    const [out, err] = [new PassThrough(), new PassThrough()];
    const said = { out: '', err: '' };
    out.on('data', (chunk) => { said.out += chunk; });
    err.on('data', (chunk) => { said.err += chunk; });
    exec.exec(namespace, 'talker', 'main', command, out, err, stdin, false,
      (status) => setImmediate(() => resolve({ ...said, status }))).catch(reject);
  });
  const said = await run(['sh', '-c', 'echo out; echo err >&2; exit 3'], null);
  assert.deepEqual([said.out, said.err, said.status.status], ['out\n', 'err\n', 'Failure']);
  assert.equal(said.status.details.causes[0].message, '3');
  const stdin = new PassThrough();
  const read = run(['head', '-n1'], stdin);
  stdin.write('there and back\n');
  assert.deepEqual((await read).out, 'there and back\n');
  await core.deleteNamespacedPod({ name: 'talker', namespace, gracePeriodSeconds: 0 });
}

async function deployments() {
  const template = { metadata: { labels: { app: 'web' } }, spec: pod('', 'sleep', '100000').spec };
  const spec = { replicas: 1, selector: { matchLabels: { app: 'web' } }, template };
  await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'web' }, spec } });
  const available = (count) => until(`/apis/apps/v1/namespaces/${namespace}/deployments`, {},
    (_, { status, metadata }) =>
      status.availableReplicas === count && status.observedGeneration === metadata.generation);
  await available(1);
  const scale = await apps.readNamespacedDeploymentScale({ name: 'web', namespace });
  scale.spec.replicas = 2;
  await apps.replaceNamespacedDeploymentScale({ name: 'web', namespace, body: scale });
  await available(2);
  await apps.deleteNamespacedDeployment({ name: 'web', namespace, propagationPolicy: 'Background' });
}

async function end() {
  const { metadata } = await core.readNamespace({ name: namespace });
  await core.deleteNamespace({ name: namespace });
  const query = { fieldSelector: `metadata.name=${namespace}`, resourceVersion: metadata.resourceVersion };
  await until('/api/v1/namespaces', query, (type) => type === 'DELETED');
}

for (const step of [objects, patches, watches, pods, deployments, end]) {
  await step();
  console.log('done:', step.name);
}
process.exit(0);
