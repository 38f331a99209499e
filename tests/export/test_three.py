"""Every kind of GLB, loaded by three.js in one browser, which has its decoders and its textures."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import trimesh
from PIL import Image

from tests.support import shapes
from tests.support.browser import ROOT, chromium
from tests.support.engines import PATIENCE_S
from trellis2_server import export
from trellis2_server.inputs.meshes import Glb
from trellis2_server.mesh import Mesh, VoxelField

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from playwright.sync_api import Page, Route

    Load = Callable[[str], tuple[bytes, Any]]

FACES, SIZE = 2000, 128
LODS: Final = (800, 200)
THREE: Final = ROOT / "node_modules" / "three"
#: Where the browser believes three.js and the models to be; nothing leaves the machine.
HOST: Final = "http://three.test"
TYPES: Final = {".js": "text/javascript", ".wasm": "application/wasm", ".glb": "model/gltf-binary"}
PAGE: Final = """<!doctype html><script type="importmap">
{"imports": {"three": "/build/three.module.js", "three/addons/": "/examples/jsm/"}}
</script><script type="module">
import * as THREE from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
import { DRACOLoader } from "three/addons/loaders/DRACOLoader.js";
import { MeshoptDecoder } from "three/addons/libs/meshopt_decoder.module.js";

const draco = new DRACOLoader().setDecoderPath("/examples/jsm/libs/draco/gltf/");
const loader = new GLTFLoader().setDRACOLoader(draco).setMeshoptDecoder(MeshoptDecoder);
const ROLES = ["map", "metalnessMap", "roughnessMap", "aoMap", "normalMap"];

function meanPixel(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height).data;
  const sums = [0, 0, 0, 0];
  pixels.forEach((value, at) => { sums[at % 4] += value; });
  return sums.map(sum => sum / (image.width * image.height));
}

function measure(root) {
  const found = { faces: 0, area: 0, volume: 0, cosines: 0, tangents: 0, colored: 0, maps: {} };
  const [a, b, c] = [0, 1, 2].map(() => new THREE.Vector3());
  root.updateMatrixWorld(true);
  root.traverse(mesh => {
    if (!mesh.isMesh) return;
    const { index, attributes } = mesh.geometry;
    const turn = new THREE.Matrix3().getNormalMatrix(mesh.matrixWorld);
    const normal = new THREE.Vector3();
    for (let at = 0; at < index.count; at += 3) {
      [a, b, c].forEach((corner, k) => corner
        .fromBufferAttribute(attributes.position, index.getX(at + k))
        .applyMatrix4(mesh.matrixWorld));
      found.volume += a.dot(b.clone().cross(c)) / 6;
      const cross = b.clone().sub(a).cross(c.clone().sub(a));
      found.area += cross.length() / 2;
      normal.fromBufferAttribute(attributes.normal, index.getX(at)).applyMatrix3(turn);
      found.cosines += normal.normalize().dot(cross) / 2;
    }
    found.faces += index.count / 3;
    found.tangents += attributes.tangent?.count ?? 0;
    found.alpha = mesh.material.transparent ? "BLEND" : mesh.material.alphaTest ? "MASK" : "OPAQUE";
    for (const role of ROLES) {
      const texture = mesh.material[role];
      if (texture) found.maps[role] = [texture.image.width, ...meanPixel(texture.image)];
    }
  });
  const box = new THREE.Box3().setFromObject(root, true);
  return { ...found, low: box.min.toArray(), high: box.max.toArray() };
}

const limit = seconds => new Promise((_, fail) =>
  setTimeout(() => fail(new Error(`no model after ${seconds} s`)), 1000 * seconds));

window.load = (url, seconds) => Promise.race([read(url), limit(seconds)]);

async function read(url) {
  const gltf = await loader.loadAsync(url);
  const meshes = gltf.parser.json.meshes.map((_, at) => gltf.parser.getDependency("mesh", at));
  const levels = (await Promise.all(meshes)).slice(1).map(measure);
  return { ...measure(gltf.scene), levels };
}
window.isReady = true;
</script>"""


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return export.prepare(shapes.links(), decimation_target=FACES)


def _field(*, is_clear: bool = False) -> VoxelField:
    field = shapes.field(24)
    attributes = field.attributes.copy()
    if is_clear:
        attributes[:, 5] = np.linspace(0.2, 1.0, len(attributes))
    return VoxelField(field.coords, attributes, field.resolution)


def _textured(**options: Any) -> Callable[[Mesh], bytes]:
    field = _field(is_clear=options.pop("is_clear", False))
    return lambda mesh: export.textured_glb(mesh, field, texture_size=SIZE, **options)


VARIANTS: Final[dict[str, Callable[[Mesh], bytes]]] = {
    "untextured": export.untextured_glb,
    "plain": _textured(),
    "webp": _textured(texture_format="webp"),
    "meshopt": _textured(compress="meshopt"),
    "draco": _textured(compress="draco"),
    "all maps": _textured(normal_map=True, occlusion=True),
    "all maps, meshopt": _textured(normal_map=True, occlusion=True, compress="meshopt"),
    "levels": _textured(lods=LODS),
    "levels, draco": _textured(lods=LODS, compress="draco"),
    "alpha": _textured(is_clear=True, alpha_mode="BLEND"),
}


def _answer(route: Route) -> None:
    path = route.request.url.removeprefix(HOST)
    file = THREE / path[1:]
    if path == "/":
        route.fulfill(body=PAGE, content_type="text/html")
    elif file.is_file():
        route.fulfill(body=file.read_bytes(), content_type=TYPES[file.suffix])
    else:
        route.fulfill(status=404)


@pytest.fixture(scope="module")
def load(page: Page, mesh: Mesh) -> Callable[[str], tuple[bytes, Any]]:
    """Return a variant of the mesh's GLB, and what three.js has of it."""

    @functools.cache
    def made(name: str) -> tuple[bytes, Any]:
        content = VARIANTS[name](mesh)
        page.route(
            f"{HOST}/model.glb",
            lambda route: route.fulfill(body=content, content_type=TYPES[".glb"]),
        )
        return content, page.evaluate("limit => load('/model.glb', limit)", PATIENCE_S)

    return made


@pytest.fixture(scope="module")
def page() -> Generator[Page]:
    if not THREE.is_dir():
        pytest.skip("three.js is not installed: run `npm install`")
    with chromium() as browser:
        opened = browser.new_page()
        opened.route(f"{HOST}/**", _answer)
        opened.goto(f"{HOST}/")
        opened.wait_for_function("window.isReady")
        yield opened


def mean_pixel(glb: Glb, texture: int) -> list[float]:
    """Return the mean of each channel of a texture as the browser's canvas has it."""
    item = glb.item("textures", texture)
    source = item.get("extensions", {}).get("EXT_texture_webp", item)["source"]
    with Image.open(io.BytesIO(glb.view(glb.item("images", source)["bufferView"]))) as opened:
        pixels = np.asarray(opened.convert("RGBA")).astype(float).reshape(-1, 4)
    return pixels.mean(0).tolist()


@pytest.mark.parametrize("name", VARIANTS)
def test_three_js_loads_what_was_exported(name: str, load: Load, mesh: Mesh) -> None:
    content, found = load(name)
    whole = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    size = float(np.ptp(mesh.vertices, axis=0).max())
    exact = "draco" not in name and "meshopt" not in name
    assert found["faces"] == len(mesh.faces)
    assert found["area"] == pytest.approx(whole.area, rel=1e-4 if exact else 2e-3)
    assert found["volume"] == pytest.approx(whole.volume, rel=1e-4 if exact else 5e-3)
    assert found["cosines"] > 0.95 * whole.area  # normals are outward
    turned = np.stack([mesh.vertices[:, 0], mesh.vertices[:, 2], -mesh.vertices[:, 1]], 1)
    atol = size * (1e-6 if exact else 1e-3)
    np.testing.assert_allclose(found["low"], turned.min(0), atol=atol)
    np.testing.assert_allclose(found["high"], turned.max(0), atol=atol)
    _check_material(Glb(content), found, SIZE)


def _check_material(glb: Glb, found: dict[str, Any], size: int) -> None:
    (material,) = glb.json["materials"]
    pbr = material["pbrMetallicRoughness"]
    wanted = {
        "map": pbr.get("baseColorTexture"),
        "metalnessMap": pbr.get("metallicRoughnessTexture"),
        "roughnessMap": pbr.get("metallicRoughnessTexture"),
        "aoMap": material.get("occlusionTexture"),
        "normalMap": material.get("normalTexture"),
    }
    assert found["maps"].keys() == {role for role, texture in wanted.items() if texture}
    assert found["alpha"] == material.get("alphaMode", "OPAQUE")
    for role, (width, *mean) in found["maps"].items():
        assert width == size
        pixels = mean_pixel(glb, wanted[role]["index"])
        # A canvas loses colour where alpha is low; decoders of JPEG and WebP differ a little.
        np.testing.assert_allclose(mean, pixels, atol=1.0)


@pytest.mark.parametrize("name", ["all maps", "all maps, meshopt"])
def test_three_js_has_the_tangents_of_a_normal_map(name: str, load: Load) -> None:
    content, found = load(name)
    assert found["tangents"] == Glb(content).json["accessors"][0]["count"]
    assert {"normalMap", "aoMap"} <= found["maps"].keys()


@pytest.mark.costly
@pytest.mark.parametrize("name", ["levels", "levels, draco"])
def test_three_js_reads_every_level_of_detail(name: str, load: Load) -> None:
    content, found = load(name)
    told = Glb(content).json["asset"]["extras"]["lods"]
    counts = [level["faces"] for level in found["levels"]]
    assert counts == [each["faces"] for each in told[1:]]
    assert all(each <= most for each, most in zip(counts, LODS, strict=True))
    for level in found["levels"]:
        assert level["area"] == pytest.approx(found["area"], rel=0.05)
        assert level["maps"] == found["maps"]
