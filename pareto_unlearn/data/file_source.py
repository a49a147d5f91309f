"""A data set of image files as a source."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pareto_unlearn.data.file_images import FileDigests, FileImages, FileLocator, ImageFile
from pareto_unlearn.data.image_sets import Digests, Images
from pareto_unlearn.data.layouts import FileTree
from pareto_unlearn.data.pixel_cache import CacheRoom
from pareto_unlearn.data.reading import digest_file
from pareto_unlearn.data.sources import Members
from pareto_unlearn.records import PixelFormat


class FileSource:
    """The image files of a tree, to be read in one format."""

    def __init__(self, tree: FileTree, pixels: PixelFormat, room: CacheRoom) -> None:
        self._tree, self._pixels, self._room = tree, pixels, room
        # Started when something is first read ahead, and gone with the last of the images.
        self._reader = ThreadPoolExecutor(1)
        self.class_names = tree.class_names

    def list_images(self, classes: Sequence[str]) -> Mapping[str, Members]:
        """Return the images of each of these classes.

        Raises:
            ConfigError: they are not where the layout has them.
        """
        return self._tree.list_images(classes)

    def open(self, image_ids: Sequence[str]) -> tuple[Images, Digests]:
        """Return images that are read when they are asked for, and digests that are computed then.

        Raises:
            ConfigError: a file is missing, empty or outside the root.
        """
        files = self._locate(image_ids)
        images = FileImages(files, self._pixels, self._room, self._reader)
        return images, FileDigests(files, self._pixels)

    def identify(self, image_ids: Sequence[str]) -> Sequence[str]:
        """Return the size of a file that no other one has, and the digest of all others.

        Raises:
            ConfigError: a file is missing, empty, outside the root, or cannot be read.
        """
        files = self._locate(image_ids)
        files_of_size = Counter(file.num_bytes for file in files)
        return [
            digest_file(file.path) if files_of_size[file.num_bytes] > 1 else f"{file.num_bytes} bytes"
            for file in files
        ]

    def _locate(self, image_ids: Sequence[str]) -> list[ImageFile]:
        locator = FileLocator(self._tree.root)
        return [locator.locate(image_id) for image_id in image_ids]
