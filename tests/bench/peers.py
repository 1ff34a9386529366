#!/usr/bin/env python3
"""Times one evaluation of a network: unfog, torch and ncnn on the same input, each in processes of its own, one after the other.

    tests/bench/peers.sh FOLDER [options]      makes what this needs, see there
    python3 peers.py FOLDER --unfog PATH       with torch, diffusers, safetensors, ncnn, pnnx and numpy at hand

FOLDER is a network as diffusers saves it (config.json and safetensors): UNet2DModel or UNet2DConditionModel, or a pipeline's folder
with such a network in `unet`. Every round starts every peer once: it loads, evaluates once (`first`, compilation included) and then
`--runs` times more. The table has the median over all rounds, so that what the machine does meanwhile hits all peers alike; the
relative error (L2) against torch in f32 on the CPU; the peak of the process's memory and what of it no file backs.

ncnn takes one image at a time: a batch is that many evaluations. Its network is made by pnnx once and kept in --work.
"""
import argparse, datetime, json, os, platform, shutil, statistics, subprocess, sys, time

TIME, CLASS = 500, 2


def main():
    a = arguments()
    if a.peer:
        return child(a)
    os.makedirs(a.work, exist_ok=True)
    if not a.time_only:
        prepare(a)
    if not a.prepare_only:
        report(a, measure(a))


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder')
    p.add_argument('--size', type=int, help="side of the picture or latent [default: the network's sample_size]")
    p.add_argument('--batch', type=int, default=1)
    p.add_argument('--runs', type=int, default=5, help='counted evaluations of a peer in a round')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--peers', help='with commas between [default: all that run here]')
    p.add_argument('--unfog', default='target/release/unfog')
    p.add_argument('--unfog-args', default='', help='more options of unfog bench, such as --precision f16')
    p.add_argument('--work', default='target/peers', help='where exported networks and inputs are kept')
    p.add_argument('--limit', type=int, default=300, help='seconds after which a peer is given up in a round')
    p.add_argument('--json', help='write everything there')
    p.add_argument('--prepare-only', action='store_true', help='export and compute the truth, measure nothing')
    p.add_argument('--time-only', action='store_true', help='measure what an earlier run prepared')
    p.add_argument('--peer', help=argparse.SUPPRESS)
    a = p.parse_args()
    unet = os.path.join(a.folder, 'unet')
    a.folder = os.path.abspath(unet if os.path.exists(os.path.join(unet, 'config.json')) else a.folder)
    a.config = json.load(open(os.path.join(a.folder, 'config.json')))
    a.size = a.size or a.config.get('sample_size')
    if not a.size:
        sys.exit('the network does not say how large its pictures are: give --size')
    key = f"{os.path.basename(a.folder.removesuffix('/unet'))}-{a.size}-{a.batch}"
    if not a.peer:
        a.work = os.path.abspath(os.path.join(a.work, key))
    return a


# What is computed.

def load(a):
    import torch, diffusers
    cls = getattr(diffusers, a.config['_class_name'])
    net = cls.from_pretrained(a.folder, torch_dtype=torch.float32).eval()
    return torch, net


def wrapped(torch, net, n):
    """The network as a module of its image, and its embedding if it takes one; n is the number of images."""
    on = lambda x, value: value.to(x.device) if x.is_cuda else value

    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, *embedding):
            more = {'encoder_hidden_states': embedding[0]} if embedding else {}
            # Made on the CPU, which pnnx takes for constants.
            if net.config.get('num_class_embeds'):
                more['class_labels'] = on(x, torch.tensor([CLASS] * n))
            return self.net(x, on(x, torch.tensor([TIME] * n)), **more).sample
    return Fixed().eval()


def example(torch, a, net):
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(a.batch, net.config.in_channels, a.size, a.size, generator=g)]
    if a.config['_class_name'] == 'UNet2DConditionModel':
        inputs.append(torch.randn(a.batch, 77, net.config.cross_attention_dim, generator=g))
    return inputs


def prepare(a):
    """The inputs, torch's result, unfog's input file, and ncnn's network."""
    import numpy as np
    from safetensors.numpy import save_file
    torch, net = load(a)
    inputs = example(torch, a, net)
    with torch.no_grad():
        np.save(a.work + '/y.npy', wrapped(torch, net, a.batch)(*inputs).numpy())
    for i, value in enumerate(inputs):
        np.save(f'{a.work}/x{i}.npy', value.numpy())
    given = dict(zip(('x', 'embedding'), (v.numpy() for v in inputs)))
    given['t'] = np.array([TIME], np.float32)
    if net.config.get('num_class_embeds'):
        given['class'] = np.array([CLASS], np.float32)
    save_file(given, a.work + '/in.safetensors')
    if os.path.exists(a.work + '/n.ncnn.bin') or a.peers and 'ncnn' not in a.peers:
        return
    # Half the bytes where that loses nothing.
    halves = all(torch.equal(p, p.half().float()) for p in net.parameters())
    here, scratch = os.getcwd(), a.work + '/export'
    os.makedirs(scratch, exist_ok=True)
    os.chdir(scratch)
    try:
        import pnnx
        pnnx.export(wrapped(torch, net, 1), 'n.pt', tuple(v[:1] for v in inputs), fp16=halves)
        for name in ('n.ncnn.param', 'n.ncnn.bin'):
            shutil.move(name, f'{a.work}/{name}')
    except Exception as e:
        print(f'ncnn: the export failed: {e}', file=sys.stderr)
    finally:
        os.chdir(here)
        shutil.rmtree(scratch, ignore_errors=True)


# The peers. Each prints one line of JSON.

def child(a):
    import numpy as np
    times, more = [], {}
    inputs = [np.load(f'{a.work}/x{i}.npy') for i in range(2) if os.path.exists(f'{a.work}/x{i}.npy')]

    def timed(evaluate):
        for _ in range(a.runs + 1):
            start = time.perf_counter()
            y = evaluate()
            times.append(time.perf_counter() - start)
        return y

    if a.peer.startswith('torch'):
        y = torch_peer(a, inputs, timed, more)
    else:
        y = ncnn_peer(a, inputs, timed)
    want = np.load(a.work + '/y.npy')
    error = float(np.linalg.norm(y.ravel() - want.ravel()) / np.linalg.norm(want))
    status = dict(line.split(':', 1) for line in open('/proc/self/status') if ':' in line)
    kilobytes = lambda key: int(status[key].split()[0]) if key in status else None
    print(json.dumps(dict(first=times[0], seconds=times[1:], error=error, peak_kb=kilobytes('VmHWM'),
                          anonymous_kb=kilobytes('RssAnon'), **more)), flush=True)
    os._exit(0)  # ncnn's Vulkan can crash when it is taken down, after the work is done


def torch_peer(a, inputs, timed, more):
    torch, net = load(a)
    torch.set_num_threads(a.threads)
    f, x = wrapped(torch, net, a.batch), [torch.from_numpy(v) for v in inputs]
    if a.peer != 'torch':
        kind = torch.float16 if a.peer == 'torch-cuda-f16' else torch.float32
        f = f.to('cuda', kind).to(memory_format=torch.channels_last)
        x = [v.to('cuda', kind) for v in x]
        more['device'] = torch.cuda.get_device_name()
    with torch.inference_mode():
        y = timed(lambda: f(*x).float().cpu().numpy())
    if a.peer != 'torch':
        more['device_peak_mb'] = torch.cuda.max_memory_allocated() / 1e6
    return y


def ncnn_peer(a, inputs, timed):
    import ncnn, numpy as np
    net = ncnn.Net()
    net.opt.use_vulkan_compute = a.peer == 'ncnn-vulkan'
    net.opt.num_threads = a.threads
    for option in ('use_fp16_packed', 'use_fp16_storage', 'use_fp16_arithmetic', 'use_bf16_storage'):
        setattr(net.opt, option, False)
    if net.load_param(a.work + '/n.ncnn.param') != 0 or net.load_model(a.work + '/n.ncnn.bin') != 0:
        sys.exit('ncnn could not load the network')
    # ncnn doesn't keep arrays alive.
    images = [[v[i].copy() for v in inputs] for i in range(a.batch)]
    mats = [[ncnn.Mat(v).clone() for v in image] for image in images]

    def evaluate():
        out = []
        for image in mats:
            e = net.create_extractor()
            for i, mat in enumerate(image):
                e.input(f'in{i}', mat)
            code, y = e.extract('out0')
            if code != 0:
                sys.exit(f'ncnn could not evaluate the network: {code}')
            out.append(np.array(y))
        return np.stack(out)
    return timed(evaluate)


def unfog(a, backend):
    out = f'{a.work}/unfog-{backend}.safetensors'
    command = [a.unfog, 'bench', '--model', a.folder, '--backend', backend, '--size', f'{a.size}x{a.size}', '--runs', str(a.runs),
               '--input', a.work + '/in.safetensors', '--output', out, '--json', *a.unfog_args.split()]
    if backend == 'cpu':
        command += ['--threads', str(a.threads)]
    r = subprocess.run(command, capture_output=True, text=True, timeout=a.limit)
    if r.returncode != 0:
        return dict(failed=r.stderr.strip().splitlines()[0] if r.stderr.strip() else f'exit {r.returncode}')
    import numpy as np
    from safetensors.numpy import load_file
    m, y, want = json.loads(r.stdout)['backends'][0], load_file(out)['y'], np.load(a.work + '/y.npy')
    device = ', '.join(m[key] for key in ('device', 'driver') if m.get(key))
    return dict(first=m['first_seconds'], open=m['open_seconds'], seconds=[m['median_seconds']], device=device,
                error=float(np.linalg.norm(y.ravel() - want.ravel()) / np.linalg.norm(want)),
                peak_kb=m['peak_bytes'] // 1024, anonymous_kb=m['anonymous_bytes'] // 1024,
                gflops=m['flops'] / m['median_seconds'] / 1e9, roof_share=m['roof_share'], plan_bytes=m['plan_bytes'],
                weight_bytes=m['weight_bytes'])


# A whole run.

def run(a, peer):
    try:
        if peer.startswith('unfog-'):
            return unfog(a, peer.removeprefix('unfog-'))
        if peer.startswith('ncnn') and not os.path.exists(a.work + '/n.ncnn.bin'):
            return dict(failed='pnnx could not export the network')
        options = dict(peer=peer, work=a.work, size=a.size, batch=a.batch, runs=a.runs, threads=a.threads)
        command = [sys.executable, os.path.abspath(__file__), a.folder]
        command += [part for key, value in options.items() for part in ('--' + key, str(value))]
        r = subprocess.run(command, capture_output=True, text=True, timeout=a.limit)
        lines = [line for line in r.stdout.splitlines() if line.startswith('{')]
        last = (r.stderr.strip().splitlines() or [f'exit {r.returncode}'])[-1]
        return json.loads(lines[-1]) if lines else dict(failed=f'exit {r.returncode}: {last}'[:120])
    except subprocess.TimeoutExpired:
        return dict(failed=f'more than {a.limit} s')


def all_peers(a):
    import torch
    cuda = ['torch-cuda', 'torch-cuda-f16'] if torch.cuda.is_available() else []
    return ['torch', *cuda, 'ncnn-cpu', 'ncnn-vulkan', 'unfog-cpu', 'unfog-vulkan']


def measure(a):
    peers = a.peers.split(',') if a.peers else all_peers(a)
    rows = {peer: dict(peer=peer, seconds=[]) for peer in peers}
    for _ in range(a.rounds):
        for peer, row in rows.items():
            if 'failed' in row:
                continue
            found = run(a, peer)
            if 'failed' in found:
                row.update(failed=found['failed'])
                continue
            row['seconds'] += found.pop('seconds')
            # The first of all starts: later ones find compiled kernels and files in caches.
            for key, value in found.items():
                row[key] = max(row[key], value) if key.endswith('_kb') and key in row else row.get(key, value)
    for row in rows.values():
        if row['seconds']:
            row.update(median=statistics.median(row['seconds']), best=min(row['seconds']))
    return list(rows.values())


def machine():
    model = next((line.split(':', 1)[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name')), platform.machine())
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    return f'{model}, {os.cpu_count()} threads, {memory:.0f} GiB, {platform.system()} {platform.release()}'


def versions(a):
    from importlib.metadata import version, PackageNotFoundError
    found = {}
    for name in ('torch', 'diffusers', 'ncnn', 'pnnx'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    said = subprocess.run([a.unfog, '--version'], capture_output=True, text=True).stdout.split()
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, cwd=os.path.dirname(os.path.abspath(__file__)))
    found['unfog'] = ' '.join([*said[1:], commit.stdout.strip()]).strip()
    return found


def report(a, rows):
    head = dict(date=datetime.date.today().isoformat(), machine=machine(), versions=versions(a), network=a.config['_class_name'],
                folder=os.path.basename(a.folder.removesuffix('/unet')), size=a.size, batch=a.batch, threads=a.threads, rounds=a.rounds, runs=a.runs)
    print(f"{head['folder']} ({head['network']}), {a.size}x{a.size}, batch {a.batch}; {head['date']}, {head['machine']}")
    print(', '.join(f'{name} {value}' for name, value in head['versions'].items()))
    print('\n| | first, ms | median, ms | best, ms | relative error | peak, MB | of which no file backs, MB |\n|---|---|---|---|---|---|---|')
    for row in rows:
        if 'median' not in row:
            print(f"| {row['peer']} | {row.get('failed', 'failed')} | | | | | |")
            continue
        ms = lambda key: f'{row[key] * 1e3:.1f}'
        mb = lambda key: f'{row[key] * 1024 / 1e6:.0f}' if row.get(key) else ''
        print(f"| {row['peer']} | {ms('first')} | {ms('median')} | {ms('best')} | {row['error']:.1e} | {mb('peak_kb')} | {mb('anonymous_kb')} |")
    if a.json:
        json.dump(dict(**head, rows=rows), open(a.json, 'w'), indent=1)


if __name__ == '__main__':
    main()
